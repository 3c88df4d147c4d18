# Functions described in .debug_frame alone, enough of them that compressing the section pays.

    .cfi_sections .debug_frame
    .text
    .globl first
    .type first, @function
first:
    .cfi_startproc
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register %rbp
    call second
    pop %rbp
    .cfi_def_cfa %rsp, 8
    ret
    .cfi_endproc
    .size first, . - first

second:
    .rept 12
    .cfi_startproc
    sub $24, %rsp
    .cfi_def_cfa_offset 32
    nop
    add $24, %rsp
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .endr

    .section .note.GNU-stack, "", @progbits
