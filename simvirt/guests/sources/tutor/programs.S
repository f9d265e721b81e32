/* programs.S: the files that are there from the start: the programs, built from programs/, and two texts. */
    .macro file name, path
    .section .rodata
    .balign 4
1:  .incbin "\path"
2:
    .section .rodata.names, "a"
3:  .asciz "\name"
    .section .rodata.initial_files, "a"
    .long 3b, 1b, 2b - 1b
    .endm

    .section .rodata.initial_files, "a"
    .balign 4
    .globl initial_files
initial_files:
    file init, init
    file shell, shell
    file ls, ls
    file cat, cat
    file echo, echo
    file wc, wc
    file sort, sort
    file primes, primes
    file preempt, preempt
    file crash, crash
    file measure, measure
    file start, programs/start.txt
    file poem, programs/poem.txt
    .long 0, 0, 0

    .section .note.GNU-stack, "", @progbits
