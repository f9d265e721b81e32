from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.x86.registers import Ring
from simvirt.x86.segments import (
    GATE_TYPES,
    HIDDEN_FLAGS_MASK,
    LONG_MODE_TYPES,
    Descriptor,
    GateDescriptor,
    Selector,
    SystemDescriptorType,
)

U32 = st.integers(0, 0xFFFF_FFFF)
SYSTEM_TYPES = (  # SDM Vol. 3A Table 3-2, in its order: 32-bit mode, IA-32e mode
    ("RESERVED_0", None), ("AVAILABLE_TSS_16", None), ("LDT", "LDT"), ("BUSY_TSS_16", None), ("CALL_GATE_16", None),
    ("TASK_GATE", None), ("INTERRUPT_GATE_16", None), ("TRAP_GATE_16", None), ("RESERVED_8", None),
    ("AVAILABLE_TSS_32", "64-bit TSS (Available)"), ("RESERVED_10", None), ("BUSY_TSS_32", "64-bit TSS (Busy)"),
    ("CALL_GATE_32", "64-bit Call Gate"), ("RESERVED_13", None), ("INTERRUPT_GATE_32", "64-bit Interrupt Gate"),
    ("TRAP_GATE_32", "64-bit Trap Gate"),
)  # fmt: skip
# SDM Vol. 3A Table 3-1: type, code?, writable or readable, expand-down or conforming, accessed
DATA_AND_CODE = [
    (value, value >= 8, value in (2, 3, 6, 7, 10, 11, 14, 15), value in (4, 5, 6, 7, 12, 13, 14, 15), bool(value % 2))
    for value in range(16)
]


def test_system_types_are_the_manuals() -> None:
    for value, (name, long_name) in enumerate(SYSTEM_TYPES):
        assert SystemDescriptorType(value).name == name
        assert LONG_MODE_TYPES.get(SystemDescriptorType(value)) == long_name


@pytest.mark.parametrize(("value", "code", "second", "third", "accessed"), DATA_AND_CODE)
def test_code_and_data_types_are_the_manuals(value: int, code: bool, second: bool, third: bool, accessed: bool) -> None:
    segment = Descriptor(0, 0, value)
    assert (segment.is_code, segment.is_data, segment.accessed) == (code, not code, accessed)
    assert (segment.readable, segment.writable) == ((second, False) if code else (True, second))
    assert (segment.conforming, segment.expand_down) == ((third, False) if code else (False, third))


def test_descriptors_that_everybody_knows() -> None:
    # The GDT entry for 0x12345678 with limit 0xABCDE in pages, typed out by hand from Figure 3-8.
    segment = Descriptor.decode(0x5678_BCDE, 0x12CA_FA34)
    assert segment.base == 0x1234_5678
    assert segment.raw_limit == 0xA_BCDE
    assert segment.limit == 0xABCD_EFFF
    assert (segment.dpl, segment.present, segment.is_code, segment.default_size, segment.long) == (
        3,
        True,
        True,
        True,
        False,
    )
    real_mode_data = Descriptor.from_bytes(bytes.fromhex("ffff000000930000"))
    assert (real_mode_data.limit, real_mode_data.granularity, real_mode_data.writable) == (0xFFFF, False, True)
    long_code = Descriptor.from_bytes((0x0020_9A00_0000_0000).to_bytes(8, "little"))
    assert (long_code.long, long_code.default_size, str(long_code).startswith("code 64-bit")) == (True, False, True)
    tss = Descriptor.from_bytes(bytes.fromhex("6700ccbb aa8b 00dd 44332211 00000000".replace(" ", "")))
    assert (tss.base, tss.limit, tss.is_busy_tss) == (0x1122_3344_DDAA_BBCC, 0x67, True)


@given(U32, U32)
def test_descriptors_come_back_bit_by_bit(low: int, high: int) -> None:
    segment = Descriptor.decode(low, high)
    assert (segment.low, segment.high) == (low, high)
    assert segment.encode() == low.to_bytes(4, "little") + high.to_bytes(4, "little")
    assert segment.flags == high & (HIDDEN_FLAGS_MASK | 0xF_0000) == high & 0x00FF_FF00
    assert Descriptor.from_bytes(segment.encode()) == segment
    assert str(segment)


@given(U32, U32, U32)
def test_long_descriptors_come_back(low: int, high: int, upper: int) -> None:
    segment = Descriptor.decode(low, high, upper)
    assert segment.base >> 32 == upper
    assert Descriptor.from_bytes(segment.encode_long()) == segment


@given(st.integers(0, 0xFFFF_FFFF), st.integers(1, 16), st.integers(0, 0xF_FFFF), st.booleans())
def test_expand_down_covers_exactly_what_expand_up_does_not(offset: int, size: int, limit: int, pages: bool) -> None:
    up, down = (Descriptor(0, limit, kind, granularity=pages) for kind in (2, 6))
    if offset + size > 1 << 32:
        assert not down.covers(offset, size)
    else:
        every_byte_above = all(not up.covers(byte) for byte in range(offset, offset + size))
        assert down.covers(offset, size) == every_byte_above


@given(st.integers(0, 0xFFFF))
def test_selectors(value: int) -> None:
    selector = Selector(value)
    assert Selector.build(selector.index, selector.rpl, in_ldt=selector.in_ldt) == value
    assert selector.with_rpl(1) == value - value % 4 + 1
    assert selector.is_null == (value in (0, 1, 2, 3))
    assert selector.offset == value // 8 * 8


GATES = st.builds(
    GateDescriptor,
    kind=st.sampled_from(sorted(GATE_TYPES)),
    selector=st.integers(0, 0xFFFF).map(Selector),
    offset=st.integers(0, 0xFFFF),
    dpl=st.sampled_from(Ring),
    present=st.booleans(),
)


@given(GATES, st.integers(0, 31), st.integers(0, 0xFFFF))
def test_gates_come_back(gate: GateDescriptor, count: int, upper_offset: int) -> None:
    fields = {
        "offset": 0 if gate.is_task_gate else gate.offset | (upper_offset << 16 if gate.width == 32 else 0),
        "parameter_count": count if gate.is_call_gate else 0,
    }
    gate = GateDescriptor(gate.kind, gate.selector, dpl=gate.dpl, present=gate.present, **fields)
    assert GateDescriptor.from_bytes(gate.encode()) == gate


@given(GATES.filter(lambda gate: gate.kind in LONG_MODE_TYPES), st.integers(0, 7), st.integers(0, (1 << 64) - 1))
def test_long_gates_come_back(gate: GateDescriptor, ist: int, offset: int) -> None:
    gate = GateDescriptor(
        gate.kind, gate.selector, offset, gate.dpl, gate.present, ist=0 if gate.is_call_gate else ist
    )  # fmt: skip
    assert GateDescriptor.from_bytes(gate.encode_long()) == gate


def test_a_gate_from_the_manuals_figure() -> None:
    gate = GateDescriptor.decode(0x0008_5678, 0x1234_EE00)
    assert gate == GateDescriptor(SystemDescriptorType.INTERRUPT_GATE_32, Selector(8), 0x1234_5678, Ring.RING3)
    assert gate is not None
    assert gate.is_interrupt_gate
    assert not gate.is_trap_gate


@pytest.mark.parametrize("high", [0x8900, 0x8200, 0x9E00, 0x0000])
def test_what_is_no_gate_is_none(high: int) -> None:
    assert GateDescriptor.decode(0, high) is None


@pytest.mark.parametrize("kind", ["TASK_GATE", "INTERRUPT_GATE_16", "TRAP_GATE_16", "CALL_GATE_16"])
def test_older_gates_do_not_exist_in_long_mode(kind: str) -> None:
    assert GateDescriptor.decode_long(0, SystemDescriptorType[kind] << 8 | 0x8000, 0) is None


@pytest.mark.parametrize("size", [0, 7, 9, 12])
def test_other_lengths_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="8 or 16 bytes"):
        Descriptor.from_bytes(bytes(size))
    with pytest.raises(ValueError, match="8 or 16 bytes"):
        GateDescriptor.from_bytes(bytes(size))
