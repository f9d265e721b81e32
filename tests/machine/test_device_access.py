"""Regions of the physical address space: devices, holes and ROM under every kind of instruction; the A20 gate."""

from __future__ import annotations

import pytest

from simvirt.machine.events import ExceptionRaised, PhysicalAccess, PhysicalTarget, WatchedWrite
from simvirt.machine.memory import Region, RegionKind
from simvirt.x86.addresses import Gpa, Hpa
from tests.support.code import le
from tests.support.paging import paged_pc, set_page
from tests.support.pc import CODE, DATA, EAX, EBX, ECX, EDI, EDX, ESI, ESP, MEMORY, STACK, Pc, flat_pc, long_pc

ROM, DEVICE, OTHER_DEVICE, HOLE = 0x80_0000, 0x90_0000, 0x91_0000, 0xA0_0000
HOST_ROM = 0x7F_0000
REGIONS = [
    Region(Gpa(0), HOST_ROM, RegionKind.RAM, Hpa(0), "RAM"),
    Region(Gpa(ROM), 0x1_0000, RegionKind.ROM, Hpa(HOST_ROM), "ROM"),
    Region(Gpa(DEVICE), 0x2_0000, RegionKind.MMIO, name="devices"),
]


def pc_with_devices() -> Pc:
    pc = flat_pc(regions=REGIONS)
    pc.memory[HOST_ROM : HOST_ROM + 8] = bytes.fromhex("1122334455667788")
    return pc


# ------------------------------------------------------------------------------------------------------------ devices


@pytest.mark.parametrize(
    ("listing", "size", "value"),
    [
        ("8a 03 ; mov al, [ebx]", 1, 0x18),
        ("66 8b 03 ; mov ax, [ebx]", 2, 0x0718),
        ("8b 03 ; mov eax, [ebx]", 4, 0xE5F6_0718),
    ],
)
@pytest.mark.parametrize("offset", [0, 4, 0xFFC])
def test_device_read(listing: str, size: int, value: int, offset: int) -> None:
    pc = pc_with_devices()
    pc.state[EBX] = DEVICE + offset
    pc.load(listing + "\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == [("read", DEVICE + offset, size, value)]
    assert pc.state[EAX] == value
    assert pc.cpu.count == 1


@pytest.mark.parametrize(
    ("listing", "size", "value"),
    [
        ("88 03 ; mov [ebx], al", 1, 0x44),
        ("66 89 03 ; mov [ebx], ax", 2, 0x3344),
        ("89 03 ; mov [ebx], eax", 4, 0x1122_3344),
        ("c6 03 00 ; mov byte ptr [ebx], 0", 1, 0),
        ("aa ; stosb", 1, 0x44),
        ("50 ; push eax", 4, 0x1122_3344),
    ],
)
def test_device_write(listing: str, size: int, value: int) -> None:
    pc = pc_with_devices()
    pc.state[EBX] = pc.state[EDI] = DEVICE + 8
    if listing.startswith("50"):
        pc.state[ESP] = DEVICE + 12
    pc.state[EAX] = 0x1122_3344
    pc.load(listing + "\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == [("write", DEVICE + 8, size, value)]


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("83 0b 01 ; or dword ptr [ebx], 1", 0x0F01),
        ("ff 03 ; inc dword ptr [ebx]", 0x0F01),
        ("f0 ff 03 ; lock inc dword ptr [ebx]", 0x0F01),
        ("87 0b ; xchg [ebx], ecx", 0x77),
        ("f0 0f c1 0b ; lock xadd [ebx], ecx", 0x0F77),
        ("0f b1 0b ; cmpxchg [ebx], ecx", 0x77),
        ("f0 0f ba 2b 04 ; lock bts dword ptr [ebx], 4", 0x0F10),
    ],
)
def test_device_read_modify_write(listing: str, expected: int) -> None:
    """One read, one write, and the register side of the exchange is right."""
    pc = pc_with_devices()
    pc.state[EBX], pc.state[ECX], pc.state[EAX] = DEVICE, 0x77, 0x0F00
    pc.bus.device_values[DEVICE] = 0x0F00
    pc.load(listing + "\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == [("read", DEVICE, 4, 0x0F00), ("write", DEVICE, 4, expected)]
    if "; xchg" in listing or "xadd" in listing:
        assert pc.state[ECX] == 0x0F00


def test_read_modify_write_that_changes_nothing_still_writes() -> None:
    """A device may act on the write itself."""
    pc = pc_with_devices()
    pc.state[EBX] = DEVICE
    pc.bus.device_values[DEVICE] = 0x0F
    pc.load("80 0b 00 ; or byte ptr [ebx], 0\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == [("read", DEVICE, 1, 0x0F), ("write", DEVICE, 1, 0x0F)]


def test_a_comparison_reads_only() -> None:
    pc = pc_with_devices()
    pc.state[EBX] = DEVICE
    pc.bus.device_values[DEVICE] = 5
    pc.load("80 3b 05 ; cmp byte ptr [ebx], 5\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == [("read", DEVICE, 1, 5)]
    assert pc.state.eflags & 0x40


def test_string_move_from_device_to_device() -> None:
    pc = pc_with_devices()
    pc.bus.device_values |= {DEVICE + 4 * i: 0x100 + i for i in range(3)}
    pc.state[ESI], pc.state[EDI], pc.state[ECX] = DEVICE, OTHER_DEVICE, 3
    pc.load("f3 a5 ; rep movsd\nf4 ; hlt")
    pc.run()
    expected = []
    for i in range(3):
        expected += [("read", DEVICE + 4 * i, 4, 0x100 + i), ("write", OTHER_DEVICE + 4 * i, 4, 0x100 + i)]
    assert pc.bus.log == expected
    assert (pc.state[ESI], pc.state[EDI], pc.state[ECX]) == (DEVICE + 12, OTHER_DEVICE + 12, 0)


def test_string_move_within_one_device_page() -> None:
    pc = pc_with_devices()
    pc.bus.device_values[DEVICE] = 0xAB
    pc.state[ESI], pc.state[EDI] = DEVICE, DEVICE + 0x100
    pc.load("a4 ; movsb\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == [("read", DEVICE, 1, 0xAB), ("write", DEVICE + 0x100, 1, 0xAB)]


def test_string_move_to_memory_and_back() -> None:
    pc = pc_with_devices()
    pc.bus.device_values[DEVICE] = 0xCAFE
    pc.state[ESI], pc.state[EDI] = DEVICE, DATA
    pc.load(f"""
        a5                      ; movsd
        be {le(DATA)}           ; mov esi, DATA
        bf {le(DEVICE + 16)}    ; mov edi, DEVICE + 16
        a5                      ; movsd
        f4                      ; hlt
    """)
    pc.run()
    assert pc.bus.log == [("read", DEVICE, 4, 0xCAFE), ("write", DEVICE + 16, 4, 0xCAFE)]
    assert pc.read(DATA, 4) == 0xCAFE


def test_push_and_pop_with_a_device_operand() -> None:
    pc = pc_with_devices()
    pc.bus.device_values[DEVICE] = 0x1234
    pc.state[EBX] = DEVICE
    pc.load("ff 33 ; push dword ptr [ebx]\n8f 43 08 ; pop dword ptr [ebx+8]\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == [("read", DEVICE, 4, 0x1234), ("write", DEVICE + 8, 4, 0x1234)]
    assert pc.state[ESP] == STACK


def test_call_through_a_pointer_in_a_device() -> None:
    pc = pc_with_devices()
    pc.bus.device_values[DEVICE] = DATA
    pc.state[EBX] = DEVICE
    pc.load("ff 13 ; call dword ptr [ebx]")
    pc.write(DATA, b"\xf4")
    pc.run()
    assert pc.state.rip == DATA
    assert pc.stack(1) == [CODE + 2]


def test_single_step_over_a_device_write_writes_once_and_traps_behind_it() -> None:
    pc = pc_with_devices()
    pc.state[EBX], pc.state[EAX] = DEVICE, 0x55
    pc.state.eflags = 0x102
    pc.load("88 03 ; mov [ebx], al\n90 ; nop")
    pc.run()
    assert pc.vector == 1
    assert pc.bus.log == [("write", DEVICE, 1, 0x55)]
    assert pc.stack(1) == [CODE + 2]
    assert pc.state.debug_register(6) & 1 << 14, "DR6.BS"


def test_access_that_begins_in_memory_and_ends_in_a_device() -> None:
    """Its two bytes in the device are two bytes there, not four."""
    pc = paged_pc(regions=REGIONS)
    page = 0x60_0000
    set_page(pc, page + 0x1000, DEVICE | 7)
    pc.write(page + 0xFFE, b"\x01\x02")
    pc.bus.device_values[DEVICE] = 0x0403
    pc.state[EBX], pc.state[EDX] = page + 0xFFE, 0x0807_0605
    pc.load("8b 03 ; mov eax, [ebx]\n89 13 ; mov [ebx], edx\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == 0x0403_0201
    assert pc.bus.log == [("read", DEVICE, 2, 0x0403), ("write", DEVICE, 2, 0x0807)]
    assert bytes(pc.memory[page + 0xFFE : page + 0x1000]) == b"\x05\x06"


def test_access_that_begins_in_a_device_and_ends_in_memory() -> None:
    pc = paged_pc(regions=REGIONS)
    page = 0x60_0000
    set_page(pc, page, DEVICE | 7)
    pc.write(page + 0x1000, b"\x03\x04")
    pc.bus.device_values[DEVICE + 0xFFE] = 0x0201
    pc.state[EBX], pc.state[EDX] = page + 0xFFE, 0x0807_0605
    pc.load("8b 03 ; mov eax, [ebx]\n89 13 ; mov [ebx], edx\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == 0x0403_0201
    assert pc.bus.log == [("read", DEVICE + 0xFFE, 2, 0x0201), ("write", DEVICE + 0xFFE, 2, 0x0605)]
    assert bytes(pc.memory[page + 0x1000 : page + 0x1002]) == b"\x07\x08"


def test_device_in_64_bit_mode_with_an_eight_byte_access() -> None:
    pc = long_pc(regions=REGIONS)
    pc.state[EBX] = DEVICE
    pc.load("48 8b 03 ; mov rax, [rbx]\n48 89 43 08 ; mov [rbx+8], rax\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == [("read", DEVICE, 8, 0xA1B2C3D4E5F60718), ("write", DEVICE + 8, 8, 0xA1B2C3D4E5F60718)]


def test_a_fault_of_the_other_operand_is_reported_and_restarts() -> None:
    pc = paged_pc(regions=REGIONS)
    set_page(pc, 0x60_0000, DEVICE | 7)
    set_page(pc, DATA, 0)
    pc.state[ESI], pc.state[EDI] = 0x60_0000, DATA
    pc.load("a5 ; movsd")
    pc.run()
    assert pc.vector == 14
    assert pc.state.cr2 == DATA
    assert (pc.state[ESI], pc.state[EDI]) == (0x60_0000, DATA)
    assert pc.stack(2) == [2, CODE]


# ------------------------------------------------------------------------------------------------ holes and ROM


def test_hole_reads_ones_and_drops_writes() -> None:
    pc = pc_with_devices()
    pc.state[EBX] = HOLE
    pc.load("""
        c7 03 00 00 00 00       ; mov dword ptr [ebx], 0
        8b 03                   ; mov eax, [ebx]
        66 8b 4b 02             ; mov cx, [ebx+2]
        f4                      ; hlt
    """)
    pc.run()
    assert (pc.state[EAX], pc.state[ECX]) == (0xFFFF_FFFF, 0xFFFF)
    assert pc.bus.log == []


def test_hole_read_modify_write() -> None:
    pc = pc_with_devices()
    pc.state[EBX] = HOLE
    pc.load("ff 03 ; inc dword ptr [ebx]\n8b 03 ; mov eax, [ebx]\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == 0xFFFF_FFFF


def test_fetch_from_a_hole_is_an_invalid_opcode() -> None:
    """The bus gives ones, and FF FF is no instruction (SDM Vol. 2D Table A-6, group 5)."""
    pc = pc_with_devices()
    pc.state[EBX] = HOLE
    pc.load("ff e3 ; jmp ebx")
    pc.run()
    assert pc.vector == 6
    assert pc.stack(1) == [HOLE]
    assert pc.cpu.count == 1


def test_rom_reads_and_drops_writes() -> None:
    pc = pc_with_devices()
    pc.state[EBX] = ROM
    pc.load("""
        8b 03                   ; mov eax, [ebx]
        c7 03 00 00 00 00       ; mov dword ptr [ebx], 0
        ff 43 04                ; inc dword ptr [ebx+4]
        8b 4b 04                ; mov ecx, [ebx+4]
        f4                      ; hlt
    """)
    pc.run()
    assert (pc.state[EAX], pc.state[ECX]) == (0x4433_2211, 0x8877_6655)
    assert bytes(pc.memory[HOST_ROM : HOST_ROM + 8]) == bytes.fromhex("1122334455667788")


def test_rom_can_be_executed() -> None:
    pc = pc_with_devices()
    pc.memory[HOST_ROM : HOST_ROM + 6] = bytes.fromhex("b807000000f4")
    pc.state[EBX] = ROM
    pc.load("ff e3 ; jmp ebx")
    pc.run()
    assert pc.state[EAX] == 7


def test_the_event_names_target_and_address() -> None:
    pc = pc_with_devices()
    pc.load(f"a1 {le(DEVICE + 0x34)} ; mov eax, [DEVICE + 0x34]")
    event = pc.event()
    assert isinstance(event, PhysicalAccess)
    assert (event.target, event.gpa, event.gva, event.length) == (PhysicalTarget.MMIO, DEVICE + 0x34, DEVICE + 0x34, 5)


def test_page_tables_in_rom_keep_their_flags() -> None:
    """The accessed flag cannot be set there; the walk goes on."""
    pc = flat_pc(regions=REGIONS)
    pc.memory[HOST_ROM : HOST_ROM + 4] = (0x83).to_bytes(4, "little")  # a 4 MiB page at 0
    pc.set_paging(ROM, cr4=1 << 4)
    pc.load(f"a1 {le(DATA)} ; mov eax, [DATA]\nf4 ; hlt")
    pc.write32(DATA, 0x99)
    pc.run()
    assert pc.state[EAX] == 0x99
    assert pc.memory[HOST_ROM] == 0x83


# ------------------------------------------------------------------------------------------------------------ A20


def test_closed_a20_gate_folds_odd_megabytes() -> None:
    pc = flat_pc()
    pc.write32(0x20_0010, 0xAAAA)
    pc.write32(0x30_0010, 0xBBBB)
    pc.engine.a20_mask = (1 << 64) - 1 & ~(1 << 20)
    pc.load(f"a1 {le(0x30_0010)} ; mov eax, [0x300010]\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == 0xAAAA
    pc.engine.a20_mask = (1 << 64) - 1
    pc.state.rip = CODE
    pc.run()
    assert pc.state[EAX] == 0xBBBB


def test_watching_a_page_refuses_writes_to_it() -> None:
    pc = flat_pc()
    pc.engine.watch_page(DATA, True)
    pc.load(f"a1 {le(DATA)} ; mov eax, [DATA]\na3 {le(DATA + 8)} ; mov [DATA + 8], eax\nf4 ; hlt")
    event = pc.event()
    assert isinstance(event, WatchedWrite)
    assert (event.gpa, event.gva, event.length, pc.cpu.count) == (DATA + 8, DATA + 8, 5, 1)
    pc.engine.watch_page(DATA, False)
    assert not isinstance(pc.event(), WatchedWrite)


def test_more_memory_than_the_map_is_a_hole() -> None:
    pc = flat_pc()
    pc.load(f"a1 {le(MEMORY)} ; mov eax, [end]\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == 0xFFFF_FFFF
    assert not any(isinstance(event, ExceptionRaised) for event in pc.events)
