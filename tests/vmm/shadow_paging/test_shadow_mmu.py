"""Shadow paging, one thing at a time: the guest runs as on bare metal, and the VMM does what it should."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simvirt.errors import UnsupportedGuestError
from simvirt.machine.fills import Access
from simvirt.strategies.trap_and_emulate.reasons import TrapReason
from simvirt.vmm.allocator import VMM_RESERVE
from simvirt.vmm.exit_log import Intervention
from simvirt.x86.addresses import Gva
from simvirt.x86.registers import GeneralRegister
from tests.support.assembler import d32
from tests.support.code import code, le
from tests.support.twins import CODE, DATA, GDT, HOLE, IDT, MEMORY, USER, Twins, start, vector

DIRECTORY, TABLE, OTHER_DIRECTORY, OTHER_TABLE = 0x5_0000, 0x5_1000, 0x5_2000, 0x5_3000
FAR = 0x40_0000
"""The first linear address that OTHER_TABLE is for."""
PG_WP, PG = 0x8001_0011, 0x8000_0011
EAX, EBX, ECX, EDX = GeneralRegister.RAX, GeneralRegister.RBX, GeneralRegister.RCX, GeneralRegister.RDX


def paging_on(cr0: int = PG_WP, directory: int = DIRECTORY, cr4: int = 0) -> str:
    """Six instructions."""
    return f"""
        b8 {le(cr4)} ; mov
        0f 22 e0 ; mov cr4
        b8 {le(directory)} ; mov
        0f 22 d8 ; mov cr3
        b8 {le(cr0)} ; mov
        0f 22 c0 ; mov cr0
    """


@pytest.fixture
def paged(twins: Twins) -> Twins:
    return with_tables(twins)


def with_tables(twins: Twins) -> Twins:
    """The first 4 MiB map themselves, in both address spaces; the second ones are for the tests."""
    identity = b"".join(d32(page << 12 | 7) for page in range(1024))
    for directory in (DIRECTORY, OTHER_DIRECTORY):
        twins.write(directory, (d32(TABLE | 7) + d32(OTHER_TABLE | 7)).ljust(4096, b"\0"))
    twins.write(TABLE, identity)
    twins.write(OTHER_TABLE, bytes(4096))
    return twins


def counts(twins: Twins) -> dict[str, int]:
    return {reason.name: n for reason, n in twins.virtual.log.counts.items()}


def test_a_hidden_fault_is_the_vmm_s_alone(paged: Twins) -> None:
    listing = (
        paging_on()
        + f"a1 {le(DATA)} ; mov eax\na1 {le(DATA + 8)} ; mov eax\na1 {le(DATA + 0x1000)} ; mov eax\nf4 ; hlt"
    )
    paged.run(code(listing))
    log = paged.virtual.log
    assert counts(paged)["SHADOW_FILL"] == 3  # the code, and two pages of data
    assert log.hidden == {TrapReason.SHADOW_FILL: 3}
    assert "EXCEPTION" not in counts(paged)


@pytest.mark.parametrize(
    ("entry", "listing", "error"),
    [
        (0, f"a1 {le(FAR)} ; mov eax", 0),
        (0, f"a3 {le(FAR)} ; mov [], eax", 2),
        (DATA | 5, f"a3 {le(FAR)} ; mov [], eax", 3),
        (0, f"e9 {le(FAR - CODE - 24 - 5)} ; jmp", 0),
    ],
)
def test_a_true_fault_is_the_guest_s(paged: Twins, entry: int, listing: str, error: int) -> None:
    paged.write(OTHER_TABLE, d32(entry))
    state = paged.run(code(paging_on() + listing))
    assert vector(state) == 14
    assert state.control[1] & ~0xFFF == FAR
    record = paged.virtual.cpu.fault_chain[-1]
    assert (record.vector, record.error_code) == (14, error)
    assert paged.virtual.log.interventions[Intervention.REFLECTED] == 1


def test_flags_are_set_as_the_processor_does(paged: Twins) -> None:
    paged.write(OTHER_TABLE, d32(DATA | 7) + d32(DATA + 0x1000 | 7) + d32(DATA + 0x2000 | 7))
    paged.run(code(paging_on() + f"a1 {le(FAR)} ; mov eax\na3 {le(FAR + 0x1000)} ; mov\nf4 ; hlt"))
    entries = [int.from_bytes(paged.bare.machine.read_physical(OTHER_TABLE + 4 * i, 4), "little") for i in range(3)]  # type: ignore[arg-type]
    assert [entry & 0x60 for entry in entries] == [0x20, 0x60, 0]


def test_the_first_write_to_a_clean_page_makes_it_dirty(paged: Twins) -> None:
    paged.write(OTHER_TABLE, d32(DATA | 7))
    paged.run(
        code(
            paging_on()
            + f"""
            a1 {le(FAR)} ; mov eax, [page]
            8b 1d {le(OTHER_TABLE)} ; mov ebx, its entry
            a3 {le(FAR)} ; mov [page], eax
            8b 0d {le(OTHER_TABLE)} ; mov ecx, its entry
            f4 ; hlt
        """
        ),
        steps=12,
    )
    state = paged.bare.machine.processor.guest_state()
    assert (state.general[EBX] & 0x60, state.general[ECX] & 0x60) == (0x20, 0x60)


def test_a_write_to_a_page_table_is_followed(paged: Twins) -> None:
    """Present without further ado; another page and not present any more after INVLPG."""
    paged.write(DATA, d32(0x1111) + bytes(0xFFC) + d32(0x2222))
    state = paged.run(
        code(
            paging_on()
            + f"""
            c7 05 {le(OTHER_TABLE)} {le(DATA | 7)} ; mov [entry], page
            a1 {le(FAR)} ; mov eax, [FAR]
            c7 05 {le(OTHER_TABLE)} {le(DATA + 0x1000 | 7)} ; mov [entry], another
            0f 01 3d {le(FAR)} ; invlpg
            8b 1d {le(FAR)} ; mov ebx, [FAR]
            c7 05 {le(OTHER_TABLE)} {le(0)} ; mov [entry], none
            0f 01 3d {le(FAR)} ; invlpg
            8b 0d {le(FAR)} ; mov ecx, [FAR]
        """
        )
    )
    assert (state.general[EAX], state.general[EBX], vector(state)) == (0x1111, 0x2222, 14)
    assert counts(paged)["PAGE_TABLE_WRITE"] == 2  # the first write came before the table had a shadow
    assert counts(paged)["EXCEPTION"] == 1


def test_shadows_survive_a_switch_of_address_spaces(paged: Twins) -> None:
    switch = "".join(
        f"b8 {le(directory)} ; mov\n0f 22 d8 ; mov cr3\na1 {le(FAR)} ; mov eax\n"
        for directory in (OTHER_DIRECTORY, DIRECTORY) * 3
    )
    paged.write(OTHER_TABLE, d32(DATA | 7))
    paged.begin(code(paging_on() + switch))
    paged.virtual.machine.run_to(6 + 6)
    fills = paged.virtual_cpu.mmu.statistics.fills
    paged.virtual.machine.run_to(6 + 18)
    assert paged.virtual_cpu.mmu.statistics.fills == fills


def test_a_large_page_is_splintered(paged: Twins) -> None:
    paged.write(DIRECTORY + 4, d32(0x87))
    state = paged.run(
        code(
            paging_on(cr4=0x10)
            + f"""
            a1 {le(FAR + CODE)} ; mov eax
            8b 1d {le(DIRECTORY + 4)} ; mov ebx, the entry
            a3 {le(FAR + DATA)} ; mov
            8b 0d {le(DIRECTORY + 4)} ; mov ecx, the entry
            8b 15 {le(FAR + 0x20_0000)} ; mov edx, beyond memory
            f4 ; hlt
        """
        ),
        steps=12,
    )
    assert (state.general[EBX], state.general[ECX], state.general[EDX]) == (0xA7, 0xE7, 0xFFFF_FFFF)


@pytest.mark.parametrize("cr0", [PG, PG_WP])
def test_a_kernel_without_write_protection_writes_read_only_pages(paged: Twins, cr0: int) -> None:
    """CR0.WP clear, and a read-only page of the user's: the kernel writes it, and after that the user still may not."""
    paged.write(OTHER_TABLE, d32(DATA | 5))
    user = "6a 23 ; push\n" + f"68 {le(0x3_2800)} ; push\n6a 02 ; push\n6a 1b ; push\n"
    write = f"a3 {le(FAR)} ; mov [FAR], eax\n"
    start_of_user = CODE + len(code(paging_on(cr0) + write + user)) + 6
    state = paged.run(
        code(
            paging_on(cr0)
            + write
            + user
            + f"68 {le(start_of_user)} ; push\ncf ; iretd\na1 {le(FAR)} ; mov eax\n"
            + write
        )
    )
    assert vector(state) == 14
    assert paged.virtual.cpu.fault_chain[-1].error_code == (7 if cr0 == PG else 3)


@pytest.mark.parametrize("cr4", [1 << 20, 1 << 21])
def test_smep_and_smap(cr4: int) -> None:
    """Everything is a user page here: the kernel's next instruction, or its next access to data, faults."""
    paged = with_tables(Twins(cpu_model="x86-64"))
    paged.write(TABLE, b"".join(d32(page << 12 | (3 if page != DATA >> 12 else 7)) for page in range(1024)))
    jump = f"e9 {le(DATA - CODE - 24 - 5)} ; jmp" if cr4 == 1 << 20 else f"a1 {le(DATA)} ; mov eax"
    state = paged.run(code(paging_on(cr4=cr4) + jump))
    assert vector(state) == 14
    assert paged.virtual.cpu.fault_chain[-1].error_code == (0x11 if cr4 == 1 << 20 else 1)


def test_a_directory_that_maps_itself(paged: Twins) -> None:
    """Its own entry 1023: the guest sees its tables at FFC00000H, where the VMM was, and edits them there."""
    paged.write(DIRECTORY + 4092, d32(DIRECTORY | 3))
    state = paged.run(
        code(
            paging_on()
            + f"""
            a1 {le(0xFFFF_F000)} ; mov eax, the directory's entry 0
            c7 05 {le(0xFFC0_1000)} {le(DATA | 7)} ; mov [OTHER_TABLE], page
            8b 1d {le(FAR)} ; mov ebx
            8b 0d {le(0xFFC0_0000 + 4 * (CODE >> 12))} ; mov ecx, the code's entry
            f4 ; hlt
        """
        )
    )
    assert state.general[EAX] == TABLE | 0x27
    assert state.general[ECX] == CODE | 0x27
    assert paged.virtual_cpu.mmu.window_base == 0xFFA0_0000
    assert paged.virtual_cpu.state.real.gdtr.base == 0xFFA0_0000  # type: ignore[attr-defined]


def test_the_vmm_s_pages_move_when_the_guest_maps_theirs(paged: Twins) -> None:
    """And segment loads, which read the shadow descriptors there, go on."""
    state = paged.run(
        code(
            paging_on()
            + f"""
            b8 23 00 00 00 ; mov eax
            8e c0 ; mov es, ax
            c7 05 {le(DIRECTORY + 4092)} {le(OTHER_TABLE | 7)} ; mov
            c7 05 {le(OTHER_TABLE)} {le(DATA | 7)} ; mov
            8b 1d {le(0xFFC0_0000)} ; mov ebx
            8e e0 ; mov fs, ax
            8e c0 ; mov es, ax
            f4 ; hlt
        """
        )
    )
    assert state.general[EBX] == 0
    assert paged.virtual_cpu.mmu.window_base != 0xFFC0_0000


def test_a_guest_that_maps_everything(paged: Twins) -> None:
    """Four GiB of large pages that map themselves: the VMM takes what leads to no memory."""
    paged.write(DIRECTORY, b"".join(d32(i << 22 | 0x87) for i in range(1024)))
    paged.run(
        code(
            paging_on(cr4=0x10)
            + f"a1 {le(DATA)} ; mov eax\n8b 1d {le(0x8000_0000)} ; mov ebx\n89 1d {le(0xFFC0_0000)} ; mov\nf4 ; hlt"
        )
    )
    assert paged.virtual_cpu.mmu.window_base == 0xFFC0_0000


def test_a_guest_that_maps_memory_everywhere_is_refused_by_name(paged: Twins) -> None:
    identity = b"".join(d32((page << 12 if page < MEMORY >> 12 else DATA) | 7) for page in range(1024))
    paged.write(TABLE, identity)
    paged.write(OTHER_TABLE, d32(DATA | 7) * 1024)
    paged.write(DIRECTORY, d32(TABLE | 7) + d32(OTHER_TABLE | 7) * 1023)
    paged.begin(code(paging_on()))
    with pytest.raises(UnsupportedGuestError, match="mapped memory everywhere"):
        paged.virtual.machine.run_to(8)


def test_tables_outside_memory(paged: Twins) -> None:
    """A directory in a hole reads as ones: each entry has reserved bits with PSE, or leads to another hole without."""
    for cr4 in (0, 0x10):
        paged.renew()
        found = paged.compare(code(paging_on(directory=HOLE, cr4=cr4) + "f4 ; hlt"))
        assert found is None, str(found)


def test_a_table_that_is_code_and_a_stack(paged: Twins) -> None:
    """The page of the stack and of the code holds a page table, too: every push is a write to it."""
    table = CODE & ~0xFFF
    paged.write(table + 0x800, d32(DATA | 7) * 8)
    paged.write(DIRECTORY + 4, d32(table | 7))
    state = paged.run(
        code(
            paging_on()
            + f"""
            bc {le(CODE + 0x400)} ; mov esp
            a1 {le(FAR + 0x20_0000)} ; mov eax
            50 ; push eax
            68 {le(DATA | 7)} ; push
            c7 05 {le(CODE + 0x804)} {le(DATA + 0x1000 | 7)} ; mov
            5b ; pop ebx
            f4 ; hlt
        """
        ),
        steps=16,
    )
    assert state.general[EBX] == DATA | 7
    assert counts(paged)["PAGE_TABLE_WRITE"] >= 3


def test_a_table_in_the_page_of_the_descriptor_table(paged: Twins) -> None:
    paged.write(GDT + 0x800, d32(DATA | 7) * 2)
    paged.write(DIRECTORY + 4, d32(GDT | 7))
    state = paged.run(
        code(
            paging_on()
            + f"""
            8b 1d {le(FAR + 0x20_0000)} ; mov ebx
            b8 23 00 00 00 ; mov eax
            8e c0 ; mov es, ax
            c7 05 {le(GDT + 0x804)} {le(0)} ; mov
            0f 01 3d {le(FAR + 0x20_1000)} ; invlpg
            8b 0d {le(FAR + 0x20_1000)} ; mov ecx
        """
        )
    )
    assert vector(state) == 14


def test_paging_goes_off_again(paged: Twins) -> None:
    paged.write(OTHER_TABLE, d32(DATA | 7))
    paged.run(
        code(
            paging_on()
            + f"""
            a1 {le(FAR)} ; mov eax
            b8 11 00 00 00 ; mov eax
            0f 22 c0 ; mov cr0
            a1 {le(DATA)} ; mov eax
            c7 05 {le(OTHER_TABLE)} {le(0)} ; mov
            b8 {le(PG)} ; mov
            0f 22 c0 ; mov cr0
            a1 {le(FAR)} ; mov eax
        """
        )
    )
    assert paged.virtual.cpu.fault_chain[-1].vector == 14


def test_an_idt_that_is_not_mapped_is_a_triple_fault(paged: Twins) -> None:
    paged.write(TABLE + 4 * (IDT >> 12), d32(0))
    paged.run(code(paging_on() + "cd 80 ; int"))
    assert paged.outcome is not None


def test_user_code_cannot_reach_the_kernel_s_pages_nor_the_vmm_s(paged: Twins) -> None:
    paged.write(TABLE + 4 * (DATA >> 12), d32(DATA | 3))
    for address, error in ((DATA, 5), (0xFFC0_0000, 4)):
        paged.begin(code(f"a1 {le(address)} ; mov eax"), start(cs=USER))
        for virtualized in (paged.bare, paged.deprivileged):
            machine = virtualized.machine
            state = machine.processor.guest_state()
            machine.processor.set_guest_state(replace(state, control=(PG_WP, 0, DIRECTORY, 0)))
            machine.run_to(1)
            record = virtualized.cpu.fault_chain[-1]
            assert (record.vector, record.error_code, record.cr2) == (14, error, address)


def test_the_shadows_never_lead_outside_the_guest_s_memory(paged: Twins) -> None:
    """But to the VMM's own pages, which nobody writes."""
    paged.write(OTHER_TABLE, b"".join(d32(page << 12 | 7) for page in (0, 0x7F, 0x80, 0xA0, 0x1000, 0x5000, 0xF_FFFF)))
    paged.begin(code(paging_on() + "".join(f"a3 {le(FAR + 0x1000 * i)} ; mov\n" for i in range(7)) + "f4 ; hlt"))
    paged.virtual.machine.run(40)
    reach = paged.virtual_cpu.engine.translate
    for linear in [*range(0, 0x80_0000, 0x1000), *range(0xFFC0_0000, 1 << 32, 0x1000)]:
        for user in (False, True):
            host = reach(Gva(linear), Access.WRITE, user=user)
            assert host is None or VMM_RESERVE <= host < VMM_RESERVE + MEMORY


def test_deviation_an_entry_that_maps_itself_is_read_with_its_flag(paged: Twins) -> None:
    """INC of the entry that maps it: 32-bit page 0 of OTHER_TABLE is OTHER_TABLE."""
    paged.write(OTHER_TABLE, d32(OTHER_TABLE | 0x27))
    found = paged.compare(code(paging_on() + f"ff 05 {le(FAR)} ; inc\nf4 ; hlt"), steps=8)
    assert found is not None
    assert f"memory at {OTHER_TABLE:#x}: 0x28 != 0x68" in found.what


def test_deviation_an_entry_that_is_copied_through_itself_is_read_with_its_flag(paged: Twins) -> None:
    """MOVSB of the first byte of the entry by which its destination is found (random program 391)."""
    paged.write(OTHER_TABLE, d32(DATA | 7))
    listing = f"be {le(OTHER_TABLE)} ; mov esi\nbf {le(FAR)} ; mov edi\na4 ; movsb\nf4 ; hlt"
    found = paged.compare(code(paging_on() + listing), steps=10)
    assert found is not None
    assert f"memory at {DATA:#x}: 0x7 != 0x67" in found.what


def test_pdptes_are_followed_when_cr3_is_loaded(paged: Twins) -> None:
    """A PDPTE goes away in memory: the register stays until CR3 is loaded, whatever INVLPG says."""
    paged.write(DIRECTORY, (OTHER_DIRECTORY | 1).to_bytes(8, "little") * 2 + bytes(4080))
    paged.write(OTHER_DIRECTORY, (TABLE | 7).to_bytes(8, "little").ljust(4096, b"\0"))
    paged.write(TABLE, b"".join((page << 12 | 7).to_bytes(8, "little") for page in range(512)))
    listing = (
        paging_on(cr4=0x20)
        + f"""
        a1 {le(0x4000_0000 + DATA)} ; mov eax
        c7 05 {le(DIRECTORY + 8)} 00 00 00 00 ; mov [PDPTE], 0
        0f 01 3d {le(0x4000_0000 + DATA)} ; invlpg
        a1 {le(0x4000_0000 + DATA)} ; mov eax
        a1 {le(0x4000_0000 + DATA + 0x1000)} ; mov eax
        b8 {le(DIRECTORY)} ; mov
        0f 22 d8 ; mov cr3
        a1 {le(0x4000_0000 + DATA)} ; mov eax
    """
    )
    assert paged.compare(code(listing), steps=15) is None
    assert paged.virtual.cpu.fault_chain[-1].cr2 == 0x4000_0000 + DATA
