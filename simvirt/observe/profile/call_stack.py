"""Who called whom in a guest: the chain of frame pointers, where the guest's code keeps one.

A function that keeps a frame pointer begins with PUSH (E/R)BP and MOV (E/R)BP, (E/R)SP: at (E/R)BP lies the caller's
frame pointer, and above it the return address (System V ABI, i386 supplement, "The Stack Frame"). Code without frame
pointers uses the register for something else, so nothing of the chain is believed unless a symbol covers the return
address and the frames lie one above the other. The outermost function has a frame pointer of 0 (System V ABI, AMD64
supplement, §3.4.1 "Initial Stack and Register State"): a chain that does not come to that has been cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.observe.code import code_bits, linear_address
from simvirt.observe.page_walk import read_linear
from simvirt.x86.addresses import PAGE_SIZE, Gva
from simvirt.x86.instruction import Bits
from simvirt.x86.registers import GeneralRegister

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage
    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.observe.trial import Trial

DEEPEST: Final = 48
_LARGEST_FRAME: Final = 1 << 20
_USER: Final = 3


@dataclass(frozen=True, slots=True)
class CallStack:
    """The functions that a guest is in, as far as they can be told.

    :ivar names: the guest's privilege, then the functions, the outermost first.
    :ivar is_whole: the chain of frame pointers leads to the end that an outermost function gives it.
    """

    names: tuple[str, ...]
    is_whole: bool


def call_stack(trial: Trial, state: ArchitecturalState) -> CallStack:
    """The functions that `state` is in."""
    bits = code_bits(state)
    address = linear_address(state, bits)
    names, is_whole = [function_name(trial.image, address)], False
    if bits is not Bits.CODE_16 and trial.image.symbols.lookup(address) is not None:
        callers, is_whole = _callers(trial, state, 8 if bits is Bits.CODE_64 else 4)
        names += callers
    return CallStack((privilege_name(state.cpl), *reversed(names)), is_whole)


def function_name(image: GuestImage, address: Gva) -> str:
    """The symbol that covers an address, or its page where none does."""
    found = image.symbols.lookup(address)
    return found[0] if found is not None else f"[{address & -PAGE_SIZE:#010x}]"


def privilege_name(cpl: int) -> str:
    """Who runs, by the guest's own view of its privilege level."""
    return "guest user" if cpl == _USER else "guest kernel"


def _callers(trial: Trial, state: ArchitecturalState, size: int) -> tuple[list[str], bool]:
    """The callers, the innermost first, and whether these are all."""
    names: list[str] = []
    frame = state.general[GeneralRegister.RBP]
    while len(names) < DEEPEST and frame and frame % size == 0:
        link = read_linear(trial, frame, 2 * size)
        if len(link) < 2 * size:
            break
        above = int.from_bytes(link[:size], "little")
        found = trial.image.symbols.lookup(Gva(int.from_bytes(link[size:], "little")))
        if found is None:
            break
        names.append(found[0])
        if above and not frame < above <= frame + _LARGEST_FRAME:
            break
        frame = above
    return names, frame == 0
