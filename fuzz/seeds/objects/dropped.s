# A function that the linker dropped is described at address 0, where the head of the file is: code,
# for who takes all of a segment for it.

    .text
    .type kept, @function
kept:
    ret
    .size kept, . - kept

    .section .eh_frame, "a", @unwind
1:
    .long 3f - 2f
2:
    # Version 1, addresses relative to here, factors 1 and -8, register 16.
    .long 0
    .byte 1
    .asciz "zR"
    .byte 1, 0x78, 16, 1, 0x1b
    # DW_CFA_def_cfa rsp 8, DW_CFA_offset of rip at CFA-8.
    .byte 0x0c, 7, 8, 0x90, 1
    .balign 4, 0
3:
    .long 5f - 4f
4:
    .long . - 1b
    .long __ehdr_start - .
    .long 0x80
    .byte 0
    .balign 4, 0
5:
    .long 7f - 6f
6:
    .long . - 1b
    .long kept - .
    .long 1
    .byte 0
    .balign 4, 0
7:

    # The address of the file's head; 0 where it is not loaded.
    .weak __ehdr_start
    .hidden __ehdr_start
    .section .note.GNU-stack, "", @progbits
