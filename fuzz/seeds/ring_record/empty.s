# A record of the sample ring without frames.

    .data
    .short 1, 1, 0, 0
    .long 1, 1, 0, 0
    .quad 1, 0, 1
    .zero 16
    .byte 1, 2
    .zero 6
