"""Guests for the third-generation machine: one written by hand, and random ones."""

from __future__ import annotations

import random

from simvirt.analyzer.finite.assembler import assemble
from simvirt.analyzer.finite.description import Description
from simvirt.analyzer.finite.encoding import encode
from simvirt.analyzer.toys.monitor import VECTORS, Guest
from simvirt.analyzer.toys.psw import Psw

SIZE = 96

# A kernel, and a program in user mode, relocated to `program`, which asks the kernel twice: each time it has counted to
# three it executes HALT, which traps. The kernel looks at the old PSW, counts, and sends the program on; then it stops.
KERNEL = """
        .word 0
        .word handler << 25 | SIZE          ; new PSW: supervisor, at handler, all of storage
        SPSW seen                           ; what does the kernel see of itself?
        LPSW user

handler: STORE result                       ; A, from the program
        LOAD calls
        ADD =1
        STORE calls
        SUB =2
        JZ stop
        LOAD 0                              ; the old PSW: one instruction on
        ADD =1 << 25
        STORE again
        LPSW again
stop:   LRB narrow
        LOAD calls
        HALT

user:   .word 1 << 37 | 0 << 25 | program << 13 | end - program
narrow: .word 0 << 13 | SIZE
again:  .word 0
seen:   .word 0
calls:  .word 0
result: .word 0

program: LOAD count - program
        ADD one - program
        STORE count - program
        SUB three - program
        JN 0
        LDI 0
        STORE count - program
        LOAD three - program
        HALT
        JUMP 0
count:  .word 0
one:    .word 1
three:  .word 3
end:
"""


def kernel(description: Description) -> Guest:
    return Guest.of(assemble(description, KERNEL, symbols={"SIZE": SIZE}).words, SIZE)


def random_guest(description: Description, seed: int, size: int = 48) -> Guest:
    """Words that are mostly instructions with addresses within reach, now and then PSWs, small numbers, or noise."""
    choose = random.Random(seed)

    def word() -> int:
        kind = choose.random()
        if kind < 0.75:
            instruction = choose.choice(description.instructions)
            operands = {one.name: choose.randrange(2 if one.size.run == 1 else size) for one in instruction.operands}
            return encode(instruction, operands)
        if kind < 0.9:
            return _psw(choose, size).pack()
        return choose.randrange(8) if kind < 0.97 else choose.getrandbits(38)

    words = [word() for _ in range(size)]
    words[1] = Psw("s", choose.randrange(VECTORS, size), 0, size).pack() if choose.random() < 0.8 else words[1]
    return Guest.of(words, size)


def _psw(choose: random.Random, size: int) -> Psw:
    relocation = choose.choice([0, 0, choose.randrange(size + 8)])
    return Psw(choose.choice("su"), choose.randrange(size), relocation, choose.randrange(size + 16))


# Where is it? The kernel starts with an L that keeps it off the PSWs in low core, asks for a real address, starts a
# program that asks, too, and stops when the program traps.
WHERE = """
        .word 0
        .word (handler - 2) << 25 | 2 << 13 | SIZE - 2
        LRA 0
        STORE kernel_at - 2
        LPSW user - 2
handler: LOAD kernel_at - 2
        HALT
user:   .word 1 << 37 | 0 << 25 | program << 13 | end - program
kernel_at: .word 0
program: LRA 0
        STORE program_at - program
        HALT
program_at: .word 0
end:
"""


def where(description: Description) -> Guest:
    return Guest.of(assemble(description, WHERE, symbols={"SIZE": SIZE}).words, SIZE, Psw("s", 0, 2, SIZE - 2))


# Back to user mode without a trap, as on the PDP-10, and then a trap, which shows the mode.
RETURN = """
        .word 0
        .word handler << 25 | SIZE
        JRST1 next
next:   HALT
handler: LOAD 0
        HALT
"""


def returning(description: Description) -> Guest:
    return Guest.of(assemble(description, RETURN, symbols={"SIZE": SIZE}).words, SIZE)
