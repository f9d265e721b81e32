"""The instruction that a trial stands on: where it lies, its bytes, its text, and what the guest's author calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.observe.page_walk import read_linear
from simvirt.observe.place import Place
from simvirt.x86.addresses import Gva
from simvirt.x86.decode import MAX_INSTRUCTION_LENGTH, decode
from simvirt.x86.instruction import Bits
from simvirt.x86.registers import SegmentRegister

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage
    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.observe.trial import Trial

LINEAR_32: Final = 0xFFFFFFFF


def place(trial: Trial, state: ArchitecturalState | None = None) -> Place:
    """The instruction that is next, or was at `state`."""
    state = trial.machine.processor.guest_state() if state is None else state
    bits = code_bits(state)
    address = linear_address(state, bits)
    code = read_linear(trial, address, MAX_INSTRUCTION_LENGTH)
    encoding = decode(code, state.rip, bits).encoding if code else b""
    return Place(address, state.rip, encoding, bits, symbol_at(trial.image, address), source_at(trial.image, address))


def code_bits(state: ArchitecturalState) -> Bits:
    """The default size of the code that `state` executes."""
    code = state.segments[SegmentRegister.CS]
    if state.efer & 1 << 10 and code.long:
        return Bits.CODE_64
    return Bits.CODE_32 if code.default_size else Bits.CODE_16


def linear_address(state: ArchitecturalState, bits: Bits) -> Gva:
    """Linear address of the next instruction."""
    if bits is Bits.CODE_64:
        return Gva(state.rip)
    return Gva((state.segments[SegmentRegister.CS].base + state.rip) & LINEAR_32)


def symbol_at(image: GuestImage, address: Gva) -> str | None:
    """The nearest name in front of an address, with the distance."""
    found = image.symbols.lookup(address)
    if found is None:
        return None
    name, offset = found
    return f"{name}+{offset:#x}" if offset else name


def source_at(image: GuestImage, address: Gva) -> str | None:
    """The source line of an address, as ``file:line``."""
    found = image.lines.lookup(address) if image.lines else None
    return f"{found[0]}:{found[1]}" if found else None
