# Functions whose call frame information has every form that the compiler of unwind tables knows.
# Nothing of it ever runs.

    .text
    .globl usual
    .type usual, @function
usual:
    .cfi_startproc
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register %rbp
    test %edi, %edi
    je 1f
    .cfi_remember_state
    leave
    .cfi_def_cfa %rsp, 8
    .cfi_restore %rbp
    ret
1:
    .cfi_restore_state
    call usual
    leave
    .cfi_def_cfa %rsp, 8
    ret
    .cfi_endproc
    .size usual, . - usual

    .type without_frame_pointer, @function
without_frame_pointer:
    .cfi_startproc
    push %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbx, 0
    sub $0x12345, %rsp
    .cfi_adjust_cfa_offset 0x12345
    .fill 300, 1, 0x90
    add $0x12345, %rsp
    .cfi_adjust_cfa_offset -0x12345
    pop %rbx
    .cfi_adjust_cfa_offset -8
    ret
    .cfi_endproc
    .size without_frame_pointer, . - without_frame_pointer

    .type realigned, @function
realigned:
    .cfi_startproc
    lea 8(%rsp), %r10
    .cfi_def_cfa %r10, 0
    and $-32, %rsp
    push -8(%r10)
    push %rbp
    mov %rsp, %rbp
    # rbp is saved at rbp + 0: DW_CFA_expression, DW_OP_breg6 0.
    .cfi_escape 0x10, 0x06, 0x02, 0x76, 0x00
    push %r10
    # The CFA is loaded from rbp - 8: DW_CFA_def_cfa_expression, DW_OP_breg6 -8, DW_OP_deref.
    .cfi_escape 0x0f, 0x03, 0x76, 0x78, 0x06
    nop
    # The same with DW_OP_plus_uconst 16.
    .cfi_escape 0x0f, 0x05, 0x76, 0x78, 0x06, 0x23, 0x10
    nop
    # An expression without an end: DW_OP_lit1 in a row.
    .cfi_escape 0x0f, 0x0a, 0x31, 0x31, 0x31, 0x31, 0x31, 0x31, 0x31, 0x31, 0x31, 0x31
    ret
    .cfi_endproc
    .size realigned, . - realigned

    .type plt_like, @function
plt_like:
    .cfi_startproc
    # DW_OP_breg7 8, DW_OP_breg16 0, DW_OP_lit15, and, lit11, ge, lit3, shl, plus.
    .cfi_escape 0x0f, 0x0b, 0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22
    jmp *0(%rip)
    push $1
    jmp plt_like
    .cfi_endproc
    .size plt_like, . - plt_like

    .type in_registers, @function
in_registers:
    .cfi_startproc
    pop %rdx
    .cfi_def_cfa_offset 0
    .cfi_register %rip, %rdx
    jmp *%rdx
    .cfi_endproc
    .size in_registers, . - in_registers

    .type outermost, @function
outermost:
    .cfi_startproc
    .cfi_undefined %rip
    call usual
    hlt
    .cfi_endproc
    .size outermost, . - outermost

    .type restores, @function
restores:
    .cfi_startproc
    .cfi_signal_frame
    nop
    # DW_CFA_def_cfa_expression: DW_OP_breg7 160, DW_OP_deref.
    .cfi_escape 0x0f, 0x04, 0x77, 0xa0, 0x01, 0x06
    mov $15, %rax
    syscall
    .cfi_endproc
    .size restores, . - restores

    .type unmarked_trampoline, @function
unmarked_trampoline:
    .cfi_startproc
    mov $15, %rax
    syscall
    .cfi_endproc
    .size unmarked_trampoline, . - unmarked_trampoline

    .type undescribed, @function
undescribed:
    .fill 64, 1, 0x90
    ret
    .size undescribed, . - undescribed

    .section .note.GNU-stack, "", @progbits
