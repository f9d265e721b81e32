from __future__ import annotations

from enum import IntFlag

import pytest

from simvirt.x86.vmx import CONTROL_WORDS, EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls

# SDM Vol. 3C Tables 25-5, 25-6, 25-7, 25-13, 25-15: bit positions and the words of the names, in the manual's order.
TABLES: list[tuple[type[IntFlag], str]] = [
    (PinControls, "0 external interrupt, 3 nmi exiting, 5 virtual nmis, 6 preemption timer, 7 posted"),
    (
        PrimaryControls,
        """
        2 interrupt window, 3 tsc offsetting, 7 hlt, 9 invlpg, 10 mwait, 11 rdpmc, 12 rdtsc, 15 cr3 load, 16 cr3
        store, 17 tertiary, 19 cr8 load, 20 cr8 store, 21 tpr shadow, 22 nmi window, 23 mov dr, 24 unconditional io,
        25 io bitmaps, 27 monitor trap flag, 28 msr bitmaps, 29 monitor exiting, 30 pause, 31 secondary
        """,
    ),
    (
        SecondaryControls,
        """
        0 apic accesses, 1 ept, 2 descriptor table, 3 rdtscp, 4 x2apic, 5 vpid, 6 wbinvd, 7 unrestricted, 8 apic
        register, 9 virtual interrupt delivery, 10 pause loop, 11 rdrand, 12 invpcid, 13 functions, 14 shadowing, 15
        encls, 16 rdseed, 17 pml, 18 violation ve, 19 conceal, 20 xsaves, 21 pasid, 22 mode based, 23 sub page, 24
        pt uses, 25 tsc scaling, 26 user wait, 27 pconfig, 28 enclv, 30 bus lock, 31 timeout
        """,
    ),
    (
        ExitControls,
        """
        2 save debug, 9 host address space, 12 perf global ctrl, 15 acknowledge, 18 save ia32 pat, 19 load ia32 pat,
        20 save ia32 efer, 21 load ia32 efer, 22 save preemption, 23 bndcfgs, 24 conceal, 25 rtit, 26 lbr, 27 uinv,
        28 cet, 29 pkrs, 30 save ia32 perf, 31 secondary
        """,
    ),
    (
        EntryControls,
        """
        2 load debug, 9 ia32e mode, 10 smm, 11 dual monitor, 13 perf global ctrl, 14 pat, 15 efer, 16 bndcfgs, 17
        conceal, 18 rtit, 19 uinv, 20 cet, 21 lbr, 22 pkrs
        """,
    ),
]


@pytest.mark.parametrize(("flags", "table"), TABLES, ids=lambda value: getattr(value, "__name__", ""))
def test_bits_are_where_the_manual_has_them(flags: type[IntFlag], table: str) -> None:
    rows = [row.split(maxsplit=1) for row in table.split(",")]
    assert [flag.value.bit_length() - 1 for flag in flags] == [int(bit) for bit, _ in rows]
    for flag, (_, words) in zip(flags, rows, strict=True):
        assert flag.name is not None
        assert "_".join(words.split()) in flag.name.lower()


def test_default1_bits() -> None:
    # SDM Vol. 3D Appendix A.3.1, A.3.2, A.4, A.5, as the lists of bit numbers that stand there
    default1 = {
        PinControls: {1, 2, 4},
        PrimaryControls: {1, 4, 5, 6, 8, 13, 14, 15, 16, 26},
        SecondaryControls: set(),
        ExitControls: {*range(9), 10, 11, 13, 14, 16, 17},
        EntryControls: {*range(9), 12},
    }
    for flags, bits in default1.items():
        assert CONTROL_WORDS[flags].default1 == sum(1 << bit for bit in bits)
        assert CONTROL_WORDS[flags].encode(0) == CONTROL_WORDS[flags].default1


def test_merom_reports_these_default1_bits() -> None:
    # IA32_VMX_PROCBASED_CTLS of a Core 2, low half: the bits that must be 1
    assert CONTROL_WORDS[PrimaryControls].default1 == 0x77B9_FFFE_0401_E172 & 0xFFFF_FFFF
