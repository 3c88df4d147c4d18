# Words of unwind rules, one of each kind (see profiler_common::unwind), then registers and memory.

    .data
    .quad 0x0000000000000000
    .quad 0x0000001000000001
    .quad 0x00000010fff00102
    .quad 0x0000000000002803
    .quad 0x0000000000002c04
    .quad 0xfffffff800000a05
    .quad 0xfffffff800000a06
    .quad 0x0000000000000007
    .quad 0x0000000000000008
    .quad 0x0000000000001409
    .quad 0x00007f0000001000, 0x00007ffff0000000, 0x00007ffff0000100
