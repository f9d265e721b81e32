"""The instructions of the third-generation machine and of its variants, one function each (third_generation.toml).

Storage is read before registers: a memory trap ends the matter, and a proof need not try all that A could have held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.analyzer.toys.psw import Psw

if TYPE_CHECKING:
    from simvirt.analyzer.finite.processor import Processor


def _address(cpu: Processor, x: int, a: int) -> int:
    """The address of an operand: `a`, plus X if the instruction says so."""
    index: int = cpu.X if x else 0
    return (a + index) % (1 << cpu.bits("X"))


# ------------------------------------------------------------------------------------------------------ privileged
def halt(cpu: Processor) -> None:
    """Stop: what runs programs sees to that, as the processor is not one of the resources of the model."""
    cpu.require_privilege()


def lpsw(cpu: Processor, x: int, a: int) -> None:
    """Load M, P, L and B."""
    cpu.require_privilege()
    psw = Psw.unpack(cpu.read(_address(cpu, x, a)), cpu.bits("P"), cpu.bits("B"))
    cpu.M, cpu.P, cpu.L, cpu.B = psw.mode, psw.p, psw.l, psw.b


def spsw(cpu: Processor, x: int, a: int) -> None:
    """Store M, P (of the next instruction), L and B."""
    cpu.require_privilege()
    psw = Psw(cpu.M, cpu.P, cpu.L, cpu.B)
    cpu.write(_address(cpu, x, a), psw.pack(cpu.bits("P"), cpu.bits("B")))


def lrb(cpu: Processor, x: int, a: int) -> None:
    """Load L and B."""
    cpu.require_privilege()
    word = cpu.read(_address(cpu, x, a))
    cpu.B = word
    cpu.L = word >> cpu.bits("B")


# ------------------------------------------------------------------------------------------------------- innocuous
def load(cpu: Processor, x: int, a: int) -> None:
    """A := word."""
    cpu.A = cpu.read(_address(cpu, x, a))


def store(cpu: Processor, x: int, a: int) -> None:
    """Word := A."""
    cpu.write(_address(cpu, x, a), cpu.A)


def ldi(cpu: Processor, x: int, a: int) -> None:
    """A := the address."""
    cpu.A = _address(cpu, x, a)


def tax(cpu: Processor) -> None:
    """X := A."""
    cpu.X = cpu.A


def txa(cpu: Processor) -> None:
    """A := X."""
    cpu.A = cpu.X


def add(cpu: Processor, a: int) -> None:
    """A := A + word."""
    cpu.A = cpu.read(a) + cpu.A


def sub(cpu: Processor, a: int) -> None:
    """A := A − word."""
    cpu.A = -cpu.read(a) + cpu.A


def and_(cpu: Processor, a: int) -> None:
    """A := A and word."""
    cpu.A = cpu.read(a) & cpu.A


def or_(cpu: Processor, a: int) -> None:
    """A := A or word."""
    cpu.A = cpu.read(a) | cpu.A


def shl(cpu: Processor, x: int, a: int) -> None:
    """A := A shifted left; everything is gone after as many places as a word has bits."""
    cpu.A <<= min(_address(cpu, x, a), cpu.bits("word"))


def shr(cpu: Processor, x: int, a: int) -> None:
    """A := A shifted right."""
    cpu.A >>= _address(cpu, x, a)


def jump(cpu: Processor, x: int, a: int) -> None:
    """Go to the address."""
    cpu.P = _address(cpu, x, a)


def jz(cpu: Processor, x: int, a: int) -> None:
    """Go to the address if A is 0."""
    if cpu.A == 0:
        cpu.P = _address(cpu, x, a)


def jn(cpu: Processor, x: int, a: int) -> None:
    """Go to the address if A's top bit is set."""
    if cpu.A >> (cpu.bits("word") - 1):
        cpu.P = _address(cpu, x, a)


# ------------------------------------------------------------------------------------------------------- variants
def jrst1(cpu: Processor, x: int, a: int) -> None:
    """Go to the address, in user mode: the PDP-10's JRST 1, which does not trap."""
    cpu.P = _address(cpu, x, a)
    cpu.M = "u"


def lra(cpu: Processor, x: int, a: int) -> None:
    """A := the real address: the 360/67's LRA, if it did not trap."""
    cpu.A = _address(cpu, x, a) + cpu.L
