# A record of the sample ring: the header, two kernel addresses, four frame words.
# The fields are those of profiler_common::wire::SampleHeader.

    .data
    .short 1, 1, 2, 4
    .long 4711, 4712, 1, 3
    .quad 123456789, 42, 1
    .asciz "some-thread"
    .zero 4
    .byte 0, 0
    .zero 6
    .quad 0xffffffff81000000, 0xffffffff81234567
    .quad 0x1000001000001234, 0x2c00000000005678
    .quad 0x3c00002000001234, 0x2000700000001234
