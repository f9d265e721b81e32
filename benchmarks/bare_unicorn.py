"""The yardstick: the same image on a Unicorn that nobody has done anything to.

It is what one gets by following Unicorn's own tutorial: an engine in 32-bit mode, memory, registers, `emu_start`. It
counts nothing, stops nowhere, delivers no exception. The only callbacks are those of IN and OUT, without which the
guests cannot end: IN gives ones, so that the console is always ready; OUT does nothing until the debug-exit port. They
run a few dozen times in a compute guest. (For `bench-priv`, two fifths of its OUT and IN are real work here too.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.machines import MEMORY, WrongEndingError
from benchmarks.timing import cpu_seconds
from simvirt.guests.load import load

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage

_EXIT_PORT: Final = 0xF4
_NEVER: Final = 0xFFFFFFFF
_GDT_AT: Final = 0x8000
_GDT: Final = bytes.fromhex("00000000 00000000 ffff0000 009bcf00 ffff0000 0093cf00")
"""Null, flat code at ring 0, flat data: the selectors 8 and 0x10 that multiboot's flat segments are taken to have."""


def run(image: GuestImage) -> float:
    """Processor seconds of one bare `emu_start` from the guest's first instruction to its OUT to the debug-exit port.

    Raises:
        WrongEndingError: the guest did not get there.
    """
    import unicorn
    from unicorn import x86_const as x86

    engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    engine.mem_map(0, MEMORY)
    boot = load(image, MEMORY, lambda gpa, data: engine.mem_write(int(gpa), bytes(data)))
    engine.mem_write(_GDT_AT, _GDT)
    engine.reg_write(x86.UC_X86_REG_GDTR, (0, _GDT_AT, len(_GDT) - 1, 0))
    engine.reg_write(x86.UC_X86_REG_CS, 0x08)
    for segment in ("SS", "DS", "ES", "FS", "GS"):
        engine.reg_write(getattr(x86, f"UC_X86_REG_{segment}"), 0x10)
    for register, value in (("EAX", boot.eax), ("EBX", boot.ebx), ("ESP", boot.esp)):
        engine.reg_write(getattr(x86, f"UC_X86_REG_{register}"), value)
    ended = []

    def on_in(_engine: Any, _port: int, size: int, _data: object) -> int:
        return int((1 << 8 * size) - 1)

    def on_out(_engine: Any, port: int, _size: int, _value: int, _data: object) -> None:
        if port == _EXIT_PORT:
            ended.append(True)
            engine.emu_stop()

    engine.hook_add(unicorn.UC_HOOK_INSN, on_in, None, 1, 0, x86.UC_X86_INS_IN)
    engine.hook_add(unicorn.UC_HOOK_INSN, on_out, None, 1, 0, x86.UC_X86_INS_OUT)
    seconds = cpu_seconds(lambda: engine.emu_start(int(boot.entry), _NEVER))
    if not ended:
        raise WrongEndingError(f"{image.name} did not reach its end on a bare Unicorn")
    return seconds
