# A Go program of two functions, with the table of functions and the runtime's description of the
# program, in the form that FORM says: 116, 118, 120. Calls are inlined into the second function.
# Source: Go's src/runtime/symtab.go, src/runtime/runtime2.go and src/runtime/symtabinl.go.

.text
.balign 16
text:
f:
    .fill 12, 1, 0x90
    # Padding.
    .fill 4, 1, 0xcc
g:
    .fill 28, 1, 0x90
    .fill 4, 1, 0xcc
etext:

# A number that is an address before Go 1.18, and an offset since.
.macro place symbol
.if FORM == 116
    .quad \symbol
.else
    .long \symbol - text
.endif
.endm

# An offset in the table.
.macro offset symbol
.if FORM == 116
    .quad \symbol - table
.else
    .long \symbol - table
.endif
.endm

# Where a function is, its name, steps, unit, line and further tables.
.macro function symbol, name, files, lines, steps, line, tables
    place \symbol
    .long \name - names, 0, 0, 0, \files - steps, \lines - steps, \steps, 0
.if FORM == 120
    .long \line
.endif
    # What kind it is, two flags, and how many tables.
    .byte 0, 0, 0, \tables
.endm

# A slice: where it is and how long.
.macro slice symbol, count
    .quad \symbol, \count, \count
.endm

# A call: its name, where it was made, and the function's line. A line for old readers.
.macro made name, at, line
.if FORM == 120
    .long 0, \name - names, \at, \line
.else
    .long 0, 1, 77, \name - names, \at
.endif
.endm

.macro calls_of_g
calls:
    made inlined, 4, 29
    made deeper, 16, 24
.endm

.section .gopclntab, "aw"
.balign 32
head:
.if FORM == 116
    .long 0xfffffffa
.elseif FORM == 118
    .long 0xfffffff0
.else
    .long 0xfffffff1
.endif
    .byte 0, 0, 1, 8
    .quad 2, 2
.if FORM == 118
    .quad text
.elseif FORM == 120
    .quad 0
.endif
    .quad names - head, units - head, files - head, steps - head, table - head
names:
name_f: .asciz "main.f"
name_g: .asciz "main.(*T).g"
inlined: .asciz "main.inlined[...]"
deeper: .asciz "main.deeper"
units:
    .long one - files, two - files
files:
one: .asciz "/src/one.go"
two: .asciz "/src/two.go"
steps:
    .byte 0
files_f:
    .byte 2, 12, 0
lines_f:
    .byte 22, 5, 6, 7, 0
# The second file where calls are inlined.
files_g:
    .byte 2, 8, 2, 16, 1, 4, 0
# 20; 25; 30; 21.
lines_g:
    .byte 42, 8, 10, 8, 10, 8, 17, 4, 0
# None; the second, which is in the first; the first; none.
calls_g:
    .byte 0, 8, 4, 8, 1, 8, 1, 4, 0
.balign 8
table:
    place f
    offset known_f
    place g
    offset known_g
    place etext
.balign 8
known_f:
    function f, name_f, files_f, lines_f, 0, 9, 0
.balign 8
known_g:
    function g, name_g, files_g, lines_g, 3, 19, 4
    .long 0, 0, calls_g - steps
.if FORM == 116
.balign 8
    .quad 0, 0, 0, calls
.else
    .long -1, -1, -1, calls - base
.endif
.if FORM == 120
.balign 8
base:
    .quad 0
    calls_of_g
.endif
end:

.section .rodata, "a"
.balign 8
.if FORM != 120
base:
    .quad 0
    calls_of_g
.balign 8
.endif
sections:
    .quad 0, etext - text + 1

.section .noptrdata, "aw"
.balign 32
    .quad 1, 2, 3, 4
module:
    .quad head
    slice names, units-names
    slice units, 2
    slice files, steps-files
    slice steps, table-steps
    slice table, end-table
    slice table, 3
    # Of the runtime's own search.
    .quad 0
    # Where code begins and ends, and the text.
    .quad text, etext, text, etext
.if FORM == 116
    .fill 20, 8, 0
.elseif FORM == 118
    .fill 14, 8, 0
    .quad base
    slice sections, 1
.else
    .fill 19, 8, 0
    .quad base, end
    slice sections, 1
.endif
    .fill 16, 8, 0
