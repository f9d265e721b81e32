from __future__ import annotations

import iced_x86
import pytest

from simvirt.x86.flags import (
    CR0_AT_RESET,
    CR0_RESERVED_LOW,
    CR4_RESERVED,
    EFER_RESERVED,
    EFLAGS_RESERVED_ZERO,
    Cr0,
    Cr4,
    Efer,
    Eflags,
    iopl,
    normal_eflags,
)

# Typed from SDM Vol. 3A Figures 2-5 and 2-7, Vol. 1 Figure 3-8, Vol. 4 Table 2-2.
EFLAGS = "CF 0 PF 2 AF 4 ZF 6 SF 7 TF 8 IF 9 DF 10 OF 11 NT 14 RF 16 VM 17 AC 18 VIF 19 VIP 20 ID 21"
CR0 = "PE 0 MP 1 EM 2 TS 3 ET 4 NE 5 WP 16 AM 18 NW 29 CD 30 PG 31"
CR4 = (
    "VME 0 PVI 1 TSD 2 DE 3 PSE 4 PAE 5 MCE 6 PGE 7 PCE 8 OSFXSR 9 OSXMMEXCPT 10 UMIP 11 LA57 12 VMXE 13 SMXE 14 "
    "FSGSBASE 16 PCIDE 17 OSXSAVE 18 KL 19 SMEP 20 SMAP 21 PKE 22 CET 23 PKS 24 UINTR 25"
)
EFER = "SCE 0 LME 8 LMA 10 NXE 11"


@pytest.mark.parametrize(("flags", "figure"), [(Eflags, EFLAGS), (Cr0, CR0), (Cr4, CR4), (Efer, EFER)])
def test_bits_are_where_the_manual_draws_them(flags: type[Eflags | Cr0 | Cr4 | Efer], figure: str) -> None:
    words = figure.split()
    for name, bit in zip(words[::2], words[1::2], strict=True):
        assert flags[name] == 1 << int(bit), name


def test_reserved_masks() -> None:
    assert EFLAGS_RESERVED_ZERO == 0xFFC0_8028
    assert CR0_RESERVED_LOW == 0x1FFA_FFC0
    assert CR4_RESERVED == 0xFFFF_FFFF_FC00_8000
    assert EFER_RESERVED & 0xFFFF_FFFF == 0xFFFF_F2FE
    assert CR0_AT_RESET == 0x6000_0010


def test_iopl_and_normal_form() -> None:
    assert [iopl(value << 12) for value in range(4)] == [0, 1, 2, 3]
    assert normal_eflags(0) == 2
    assert normal_eflags(0xFFFF_FFFF) == 0x003F_7FD7


def test_arithmetic_flags_are_those_the_decoder_says_add_writes() -> None:
    written = iced_x86.Decoder(32, b"\x01\xc8").decode().rflags_modified
    bits = iced_x86.RflagsBits
    flags = {
        bits.CF: Eflags.CF,
        bits.PF: Eflags.PF,
        bits.AF: Eflags.AF,
        bits.ZF: Eflags.ZF,
        bits.SF: Eflags.SF,
        bits.OF: Eflags.OF,
    }
    assert written == sum(flags)
    assert sum(flags.values()) == Eflags.ARITHMETIC
