"""The processor's state in which a guest's first instruction runs.

The boot protocols enter 32-bit protected mode with flat 4 GiB segments, paging off, interrupts disabled and A20 on
(Multiboot Specification 0.6.96 §3.2 "Machine state", Linux's "32-bit BOOT PROTOCOL"), or 64-bit mode with memory mapped
to itself (Linux's "64-bit BOOT PROTOCOL"); a machine that boots from its disk begins as the processor does after reset.
What they leave undefined is zero here. Where a protocol promises no GDT,
GDTR is empty, so a guest that loads a segment register before it has set one up faults, as it may on a real machine;
so does one that takes an interrupt, IDTR being empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.guests.image import BootMode
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.flags import Cr0, Cr4, Efer
from simvirt.x86.registers import GeneralRegister

if TYPE_CHECKING:
    from simvirt.guests.image import BootState

_CODE: Final = 0x00CF9B00
_LONG_CODE: Final = 0x00AF9B00
_DATA: Final = 0x00CF9300
_UNPAGED: Final = Cr0.PE | Cr0.ET
_PAGED: Final = Cr0.PE | Cr0.ET | Cr0.PG
_NO_LDT: Final = Segment(0, 0, 0xFFFF, 0x8200)
_NO_TASK: Final = Segment(0, 0, 0xFFFF, 0x8900)
_DR6_AT_RESET: Final = 0xFFFF0FF0
_DR7_AT_RESET: Final = 0x400
_RESET_CS: Final = 0xF000
_RESET_CS_BASE: Final = 0xFFFF0000
_RESET_IP: Final = 0xFFF0
_REAL_MODE_CODE: Final = 0x9B00
_REAL_MODE_DATA: Final = 0x9300


def initial_state(boot: BootState) -> ArchitecturalState:
    """The state that the boot protocol gives the guest; the floating-point unit is left as it is after reset."""
    return reset_state() if boot.mode is BootMode.RESET else _loaded_state(boot)


def reset_state() -> ArchitecturalState:
    """The processor after power-up or reset (SDM Vol. 3A Table 10-1 "IA-32 and Intel 64 Processor States").

    EDX, which holds the processor's version then, is zero here: the version is CPUID's to tell.
    """
    data = Segment(0, 0, 0xFFFF, _REAL_MODE_DATA)
    return ArchitecturalState(
        general=(0,) * len(GeneralRegister),
        rip=_RESET_IP,
        eflags=2,
        segments=(data, Segment(_RESET_CS, _RESET_CS_BASE, 0xFFFF, _REAL_MODE_CODE), data, data, data, data),
        ldtr=_NO_LDT,
        tr=_NO_TASK,
        gdtr=DescriptorTable(0, 0xFFFF),
        idtr=DescriptorTable(0, 0xFFFF),
        control=(int(Cr0.CD | Cr0.NW | Cr0.ET), 0, 0, 0),
        efer=0,
        debug=(0, 0, 0, 0, _DR6_AT_RESET, _DR7_AT_RESET),
        interrupt_shadow=False,
        floating_point=b"",
    )


def _loaded_state(boot: BootState) -> ArchitecturalState:
    general = [0] * len(GeneralRegister)
    general[GeneralRegister.RAX], general[GeneralRegister.RBX] = boot.eax, boot.ebx
    general[GeneralRegister.RSP], general[GeneralRegister.RSI] = boot.esp, boot.esi
    long = boot.mode is BootMode.LONG
    code = Segment(boot.code_selector, 0, 0xFFFFFFFF, _LONG_CODE if long else _CODE)
    data = Segment(boot.data_selector, 0, 0xFFFFFFFF, _DATA)
    return ArchitecturalState(
        general=tuple(general),
        rip=boot.entry,
        eflags=2,
        segments=(data, code, data, data, data, data),
        ldtr=_NO_LDT,
        tr=_NO_TASK,
        gdtr=DescriptorTable(boot.gdt.start, len(boot.gdt) - 1) if boot.gdt else DescriptorTable(0, 0),
        idtr=DescriptorTable(0, 0),
        control=(int(_PAGED if long else _UNPAGED), 0, boot.page_tables if long else 0, int(Cr4.PAE) if long else 0),
        efer=int(Efer.LME | Efer.LMA) if long else 0,
        debug=(0, 0, 0, 0, _DR6_AT_RESET, _DR7_AT_RESET),
        interrupt_shadow=False,
        floating_point=b"",
    )
