"""The typed view of the state image: against Unicorn's own interface, and against what instructions leave."""

from __future__ import annotations

import pytest

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.registers import GeneralRegister, SegmentRegister
from tests.support import tables
from tests.support.code import le
from tests.support.pc import CODE, CS, DATA, DS, EAX, ECX, SPARE, SS, Pc, flat_pc, long_pc, real_pc


def test_flags_are_in_one_piece_after_arithmetic() -> None:
    """The engine keeps them lazily while it runs."""
    pc = flat_pc()
    pc.load("b8 ff ff ff 7f ; mov eax, 0x7fffffff\n40 ; inc eax\nf9 ; stc\nfd ; std\nf4 ; hlt")
    pc.run()
    assert pc.state.eflags == 2 | 1 << 11 | 1 << 7 | 1 << 4 | 1 << 2 | 1 | 1 << 10  # OF SF AF PF CF DF


@pytest.mark.parametrize("flags", [0x2, 0x8D7, 0x401, 0x24_0ED7, 0x3202])
def test_flags_that_are_written_are_seen_by_the_guest(flags: int) -> None:
    pc = flat_pc()
    pc.state.eflags = flags
    pc.load("9c ; pushfd\n58 ; pop eax\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == flags | 2
    assert pc.state.eflags == flags | 2


def test_direction_flag_reaches_string_instructions() -> None:
    pc = flat_pc()
    pc.state.eflags = 0x402
    pc.state[6] = DATA
    pc.load("ad ; lodsd\nf4 ; hlt")
    pc.run()
    assert pc.state[6] == DATA - 4


@pytest.mark.parametrize(("size", "value", "result"), [
    (1, 0x1AB, 0x1122_3344_5566_77AB), (2, 0x1_ABCD, 0x1122_3344_5566_ABCD), (4, 0x1_89AB_CDEF, 0x89AB_CDEF),
    (8, 0xFEDC_BA98_7654_3210, 0xFEDC_BA98_7654_3210),
])  # fmt: skip
def test_register_writes_by_size(size: int, value: int, result: int) -> None:
    """Writes of 8 and 16 bits leave the rest, of 32 bits clear the upper half (Vol. 1 §3.4.1.1)."""
    state = flat_pc().state
    state[GeneralRegister.R9] = 0x1122_3344_5566_7788
    state.set_register(GeneralRegister.R9, size, value)
    assert state[GeneralRegister.R9] == result
    assert state.register(GeneralRegister.R9, size) == result & (1 << 8 * size) - 1


def test_segment_loads_by_the_guest_show_their_hidden_part() -> None:
    pc = flat_pc()
    pc.set_descriptor(SPARE, tables.segment(tables.DATA_R0, tables.BYTES_32, 0x1234_5678, 0xABCD))
    pc.state[EAX] = SPARE
    pc.load("8e d8 ; mov ds, ax\nf4 ; hlt")
    pc.run()
    segment = pc.state.segment(DS)
    assert (segment.selector, segment.base, segment.limit) == (SPARE, 0x1234_5678, 0xABCD)
    assert segment.flags & 0xFF00 == (tables.DATA_R0 | 1) << 8
    assert (segment.dpl, segment.present, segment.default_size, segment.long) == (0, True, True, False)


def test_segment_with_a_base_is_used() -> None:
    pc = flat_pc()
    pc.state.set_segment(DS, Segment(SPARE, 0x1000, 0xFFFF_FFFF, 0x00CF_9300))
    pc.state.refresh()
    pc.write32(DATA + 0x1000, 0x77)
    pc.load(f"a1 {le(DATA)} ; mov eax, [DATA]\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == 0x77


@pytest.mark.parametrize(
    ("make", "bits", "protected", "long"),
    [(real_pc, 16, False, False), (flat_pc, 32, True, False), (long_pc, 64, True, True)],
)
def test_modes(make: object, bits: int, protected: bool, long: bool) -> None:
    state = make().state  # type: ignore[operator]
    assert (state.bits, state.protected_mode, state.long_mode, state.code_64) == (bits, protected, long, bits == 64)
    assert not state.virtual_8086_mode


def test_16_bit_code_segment_changes_operand_sizes() -> None:
    """B8 is MOV EAX, imm32 in 32-bit code and MOV AX, imm16 in 16-bit code."""
    pc = flat_pc()
    pc.load("b8 34 12 ; mov ax, 0x1234\nf4 ; hlt", bits=16)
    pc.load_segment(CS, 0x40)
    pc.state.set_segment(CS, Segment(0x40, 0, 0xFFFF_FFFF, 0x008F_9B00))
    pc.state.refresh()
    pc.state[EAX] = 0xFFFF_FFFF
    assert pc.state.bits == 16
    pc.run()
    assert pc.state[EAX] == 0xFFFF_1234


def test_16_bit_stack_segment_uses_sp() -> None:
    pc = flat_pc()
    pc.state.set_segment(SS, Segment(0x48, 0, 0xFFFF, 0x0000_9300))
    pc.state.refresh()
    pc.state.rsp = 0x1234_8000
    pc.load("50 ; push eax\nf4 ; hlt")
    pc.run()
    assert pc.state.rsp == 0x1234_7FFC


def test_busy_tss_is_kept_available_for_the_engine() -> None:
    """With any other type the engine would end the process at the next stack switch."""
    state = flat_pc().state
    state.tr = Segment(0x68, 0x1000, 0x67, 0x8B00)
    assert state.tr == Segment(0x68, 0x1000, 0x67, 0x8900)
    state.tr = Segment(0, 0, 0, 0)
    assert state.tr.flags == 0x8900


def test_sgdt_shows_what_was_set() -> None:
    pc = flat_pc()
    pc.state.gdtr = DescriptorTable(0x12_3456, 0x77)
    pc.load(f"0f 01 05 {le(DATA)} ; sgdt [DATA]\nf4 ; hlt")
    pc.run()
    assert bytes(pc.memory[DATA : DATA + 6]) == bytes.fromhex("7700 56341200")


# ------------------------------------------------------------------------------------------------ the state as a value


def test_a_state_put_into_another_processor_goes_on_the_same_way() -> None:
    listing = "d9 eb ; fldpi\n0f 28 c1 ; movaps xmm0, xmm1\n01 c8 ; add eax, ecx\n9c ; pushfd\n5a ; pop edx\nf4 ; hlt"
    first, second = flat_pc(), flat_pc()
    for pc in (first, second):
        pc.state.set_control_register(4, 1 << 9)
        pc.state.refresh()
        pc.load(listing)
    first.state[EAX], first.state[ECX] = 0x7FFF_FFFF, 1
    first.step(3)
    ArchitecturalState.of(first.state).put(second.state)
    second.engine.flush_tlb()
    assert ArchitecturalState.of(second.state) == ArchitecturalState.of(first.state)
    for pc in (first, second):
        pc.run()
    assert ArchitecturalState.of(second.state).differences(ArchitecturalState.of(first.state)) == []
    assert second.state[2] == first.state[2] != 0


@pytest.mark.parametrize("selector", [(0x08, 0x10, 0), (0x51, 0x59, 1), (0x1B, 0x23, 3)])
def test_privilege_level_is_carried_by_the_stack_segment(selector: tuple[int, int, int]) -> None:
    """CPL is the DPL of SS (Vol. 3C §25.4.1)."""
    pc, other = flat_pc(), flat_pc()
    code_selector, stack_selector, cpl = selector
    pc.ring(cpl, code_selector, stack_selector, 0x2_0000)
    state = ArchitecturalState.of(pc.state)
    assert state.cpl == cpl
    state.put(other.state)
    assert other.state.cpl == cpl


def test_differences_are_named() -> None:
    one, two = flat_pc(), flat_pc()
    two.state[EAX] = 5
    two.state.rip = CODE + 1
    two.state.eflags = 0x202
    two.state.set_control_register(2, 9)
    two.state.interrupt_shadow = True
    found = ArchitecturalState.of(one.state).differences(ArchitecturalState.of(two.state))
    assert [(d.component, d.reference, d.value) for d in found] == [
        ("EAX", 0, 5), ("EIP", CODE, CODE + 1), ("EFLAGS", 2, 0x202), ("CR2", 0, 9), ("interrupt shadow", 0, 1),
    ]  # fmt: skip


def test_components_are_complete_and_differ_in_name() -> None:
    names = [name for name, _ in ArchitecturalState.of(long_pc().state).components()]
    assert len(set(names)) == len(names)
    for expected in (
        "RAX",
        "R15",
        "RIP",
        "EFLAGS",
        "CS",
        "CS.base",
        "TR.limit",
        "GDTR.base",
        "CR3",
        "IA32_EFER",
        "DR7",
    ):
        assert expected in names
    assert {register.name for register in SegmentRegister} <= set(names)


def image_round_trip(pc: Pc) -> bytes:
    image = pc.engine.save_image()
    pc.engine.restore_image(image)
    return image


def test_state_images_are_the_same_for_the_same_state() -> None:
    """Whatever the engine left in its lazy form, a settled image does not show it."""
    images = []
    for listing in ("83 c0 05 ; add eax, 5\n31 c0 ; xor eax, eax", "90 ; nop\n29 c0 ; sub eax, eax"):
        pc = flat_pc()
        pc.load("90 ; nop", CODE)
        pc.load(listing)
        pc.step(2)
        pc.state.rip, pc.cpu.count = CODE, 0
        images.append((pc.state.eflags, pc.state[EAX]))
        assert image_round_trip(pc) == pc.engine.save_image()
    assert images[0] == images[1]
