# An object with the note of the Go toolchain, and a function of one instruction.

    .text
    .globl only
    .type only, @function
only:
    .cfi_startproc
    ret
    .cfi_endproc
    .size only, . - only

    .section .note.go.buildid, "a", @note
    .balign 4
    .long 4
    .long 12
    .long 4
    .ascii "Go\0\0"
    .ascii "twelve bytes"

    .section .note.GNU-stack, "", @progbits
