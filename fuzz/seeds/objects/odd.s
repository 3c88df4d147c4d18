# A function whose call frame information has operations that few know: the linker does not.

    .text
    .globl odd
    .type odd, @function
odd:
    .cfi_startproc
    # DW_CFA_GNU_args_size, DW_CFA_val_offset of rsp, DW_CFA_GNU_window_save, an unknown operation.
    .cfi_escape 0x2e, 0x10
    nop
    .cfi_escape 0x14, 0x07, 0x01
    nop
    .cfi_escape 0x2d
    nop
    .cfi_escape 0x3a
    ret
    .cfi_endproc
    .size odd, . - odd

    .section .note.GNU-stack, "", @progbits
