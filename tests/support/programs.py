"""Random programs: 32-bit kernels made of random pieces, the same for the same seed.

>>> one = generate(7)
>>> one == generate(7), one == generate(8)
(True, False)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from simvirt.guests.image import BootProtocol, GuestImage, ImageKind, Segment
from simvirt.guests.symbols import SymbolTable
from simvirt.x86.addresses import Gpa
from tests.support import program_frame as frame
from tests.support import program_memory_pieces as memory
from tests.support.assembler import Assembler, d16, d32
from tests.support.program_pieces import NOTHING, REGISTERS, Body, Feature, choose


@dataclass(frozen=True, slots=True)
class Program:
    """A program.

    :ivar memory: what lies from `frame.CODE` on.
    :ivar body: where the random part begins; it ends at `end`.
    """

    name: str
    memory: bytes
    entry: int
    body: int
    end: int

    def image(self) -> GuestImage:
        """It as a guest."""
        return flat_image(self.name, self.memory, frame.CODE, self.entry)


def flat_image(name: str, memory: bytes, address: int, entry: int) -> GuestImage:
    """Bytes at an address as a guest."""
    return GuestImage(
        name=name,
        path=None,
        kind=ImageKind.FLAT,
        sha256=sha256(memory).hexdigest(),
        segments=(Segment(Gpa(address), memory, len(memory)),),
        entry=Gpa(entry),
        boot=BootProtocol.PROTECTED_FLAT,
        symbols=SymbolTable.of(()),
        lines=None,
    )


def generate(seed: int, features: Feature = Feature.EVERYTHING, pieces: int = 40) -> Program:
    """The random program of a seed."""
    rng = random.Random(f"{seed} {features.value} {pieces}")

    def body(b: Body) -> None:
        for register in REGISTERS:
            b.load(register, rng.getrandbits(32))
        if features & Feature.INTERRUPTS and rng.random() < 0.8:
            b.a.emit("fb")
        for _ in range(pieces):
            if b.a.here > frame.BODY_END - 0x2000:
                break
            choose(b)

    return assemble(f"random-{seed}", body, features, rng)


def assemble(
    name: str, body: Callable[[Body], None], features: Feature = NOTHING, rng: random.Random | None = None
) -> Program:
    """A program with the given body: a function of the `Body` that it fills."""
    rng = rng or random.Random(0)
    a = Assembler(frame.CODE)
    paging = bool(features & Feature.PAGING)
    interrupts = bool(features & Feature.INTERRUPTS)
    frame.emit_start(
        a,
        paging=paging,
        timer=rng.randint(2, 5) if interrupts else None,
        uart_ier=rng.choice((0, 2, 2)) if interrupts else 0,
    )
    a.jump("e9", "body")
    a.label("gdtr")
    a.emit(d16(0x37) + d32(frame.GDT))
    a.label("idtr")
    a.emit(d16(0x7FF) + d32(frame.IDT))
    frame.emit_handlers(a, paging=paging, late_sti=rng.random() < 0.5)
    a.pad_to(frame.CODE + 0x1000)
    a.label("body")
    body(Body(a, rng, features))
    a.jump("e9", "end")
    frame.emit_end(a)
    code = a.finish()
    memory_image = bytearray(frame.END - frame.CODE)
    contents = (
        {frame.CODE: code}
        | frame.tables(a)
        | memory.switched_code()
        | memory.straddling_code(cpuid=bool(features & Feature.TIME))
    )
    for page in range(frame.ROUTINE_PAGES - 1):
        for offset in memory.ROUTINE_OFFSETS:
            contents[frame.ROUTINES + 0x1000 * page + offset] = memory.routine(rng.getrandbits(16))
    contents[frame.DATA] = rng.randbytes(frame.DATA_SIZE // 2)
    contents[frame.RESUME] = d32(a["end"])
    if paging:
        contents |= frame.page_tables()
    for address, data in contents.items():
        memory_image[address - frame.CODE : address - frame.CODE + len(data)] = data
    return Program(name, bytes(memory_image), a["start"], a["body"], a["end"])
