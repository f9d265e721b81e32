"""The proof's own obligation in 64-bit mode: each form there commutes with the VM map of vtx, which has that mode."""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import cache
from typing import Final

import pytest

from simvirt.analyzer.registry import find
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.flags import Cr0, Cr4, Efer
from simvirt.x86.segments import Descriptor
from tests.support import tables as t
from tests.support import twins
from tests.support.twins import Twins, start

FORMS: Final = [form for form in find("x86-64").machine().forms() if form.encoding and not form.not_executed]
IDT, PAGE_TABLES, TSS = 0x5000, 0x6000, 0x9000
CS0, CS3, TASK = 0x130, 0x13B, 0x140
"""Selectors of 64-bit code, and of a 64-bit TSS, whose descriptor takes two places."""
CODE_0 = t.segment(t.CODE_R0, t.FLAT_64)
CODE_3 = t.segment(t.CODE_R3, t.FLAT_64)
PRESENT_WRITABLE_USER, LARGE = 7, 0x80


def contents() -> dict[int, bytes]:
    """Tables of 64-bit mode: descriptors, gates, a TSS, and an identity map of 1 GiB in pages of 2 MiB."""
    gates = b"".join(
        t.gate_64(t.INT_GATE, CS0, twins.HANDLERS + 16 * n, 3 if n in (3, 4, 0x80) else 0) for n in range(256)
    )
    directory = b"".join(struct.pack("<Q", n << 21 | LARGE | PRESENT_WRITABLE_USER) for n in range(512))
    return {
        twins.GDT + (CS0 & ~7): CODE_0 + CODE_3 + t.system_segment_64(t.BUSY_TSS32, TSS, 0x67),
        IDT: gates,
        PAGE_TABLES: struct.pack("<Q", PAGE_TABLES + 0x1000 | PRESENT_WRITABLE_USER),
        PAGE_TABLES + 0x1000: struct.pack("<Q", PAGE_TABLES + 0x2000 | PRESENT_WRITABLE_USER),
        PAGE_TABLES + 0x2000: directory,
        TSS: t.tss_64(twins.INNER_STACK),
    }


def long_start(*, user: bool, **general: int) -> ArchitecturalState:
    """A state of 64-bit code, of the kernel or of a user."""
    state = start(cs=twins.CS3 if user else twins.CS0, **general)
    selector, raw = (CS3, CODE_3) if user else (CS0, CODE_0)
    code = Segment.from_descriptor(selector, Descriptor.from_bytes(raw))
    segments = list(state.segments)
    segments[1] = replace(code, flags=code.flags | 0x100)
    return replace(
        state,
        segments=tuple(segments),
        ldtr=Segment(0, 0, 0, 0),
        tr=Segment(TASK, TSS, 0x67, 0x8B00),
        idtr=DescriptorTable(IDT, 0xFFF),
        control=(
            int(Cr0.PG | Cr0.WP | Cr0.NE | Cr0.ET | Cr0.MP | Cr0.PE),
            0,
            PAGE_TABLES,
            int(Cr4.PAE | Cr4.OSFXSR | Cr4.FSGSBASE),
        ),
        efer=int(Efer.LME | Efer.LMA | Efer.SCE | Efer.NXE),
    )


_POINTERS: Final = {"ebx": 0x2_0100, "esi": 0x2_0200, "edi": 0x2_0300, "ebp": 0x2_0400}
STATES: Final = {
    "kernel": long_start(user=False, eax=0x2_0000, ecx=1, edx=0x3F8, eflags=0x202, **_POINTERS),
    "kernel, an MSR and a selector": long_start(user=False, eax=twins.DS0, ecx=0x174, edx=0, **_POINTERS),
    "user": long_start(user=True, eax=0x2_0000, ecx=2, edx=0x40, eflags=0x202, **_POINTERS),
}


@cache
def pair() -> Twins:
    return Twins(cpu_model="x86-64", strategy="vtx")


def renew() -> None:
    pair().renew()
    for address, data in contents().items():
        pair().write(address, data)


@pytest.mark.parametrize("state", STATES)
def test_every_form_commutes_with_the_map(state: str) -> None:
    found, completed = {}, 0
    for form in FORMS:
        renew()
        if divergence := pair().compare(form.encoding, STATES[state], steps=1):
            found[form.identifier] = str(divergence)
        completed += twins.vector(pair().bare.machine.processor.guest_state()) is None
    assert not found
    assert completed > len(FORMS) * 0.8  # the others raise an exception, alike


def test_that_it_is_64_bit_mode() -> None:
    renew()
    end = pair().run(bytes.fromhex("4889d8 4899 0f05"), long_start(user=False, ebx=5), steps=2)  # MOV RAX, RBX; CQO
    assert (end.general[0], end.rip) == (5, twins.CODE + 5)
    assert len(FORMS) > 1000
