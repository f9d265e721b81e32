from __future__ import annotations

import iced_x86
import pytest

from simvirt.x86.registers import ControlRegister, DebugRegister, GeneralRegister, SegmentRegister


@pytest.mark.parametrize("register", GeneralRegister)
@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_the_decoder_calls_a_register_the_same_and_gives_it_the_same_number(
    register: GeneralRegister, width: int
) -> None:
    name = register.name_at(width).upper()
    if width == 8 and register >= GeneralRegister.R8:
        name = f"{register.name}L"
    number = getattr(iced_x86.Register, name)
    # Of byte registers the encodings 4 to 7 without REX are AH to BH; the decoder counts those in between.
    if width == 8 and register >= GeneralRegister.RSP:
        assert iced_x86.RegisterExt.number(number) == register + 4
    else:
        assert iced_x86.RegisterExt.number(number) == register


@pytest.mark.parametrize("kind", [SegmentRegister, ControlRegister, DebugRegister])
def test_system_registers_have_the_decoders_numbers(
    kind: type[SegmentRegister | ControlRegister | DebugRegister],
) -> None:
    for register in kind:
        assert iced_x86.RegisterExt.number(getattr(iced_x86.Register, register.name)) == register


def test_high_bytes_belong_to_the_first_four() -> None:
    assert [register.name_at(8, high_byte=True) for register in tuple(GeneralRegister)[:4]] == ["ah", "ch", "dh", "bh"]
    with pytest.raises(ValueError, match="RSP has no high-byte window"):
        GeneralRegister.RSP.name_at(8, high_byte=True)
    with pytest.raises(ValueError, match="not 24"):
        GeneralRegister.RAX.name_at(24)
