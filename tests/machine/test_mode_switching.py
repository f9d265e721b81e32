"""One program from real-address mode by way of every paging mode to 64-bit mode, and back (SDM Vol. 3A §10.8.5)."""

from __future__ import annotations

import struct

from simvirt.machine.events import Event, Halt
from simvirt.x86.registers import SegmentRegister
from tests.support import tables
from tests.support.code import code, le
from tests.support.pc import EAX, EBX, ECX, EDX, ESI, ESP, Pc, real_pc

REAL, PROTECTED, PAGED, PAE, LONG, COMPATIBILITY, BACK = (0x1_0000 + 0x100 * i for i in range(7))
GDTR, DIRECTORY, PDPT, PD, PML4, PDPT_64 = 0x8000, 0x10_0000, 0x10_1000, 0x10_2000, 0x10_3000, 0x10_4000
C32, D32, C64, C16 = 0x08, 0x10, 0x18, 0x20
PE, PG, EFER = 1, 0x8000_0000, 0xC000_0080


def tables_for_all(pc: Pc) -> None:
    gdt = (
        b"\0" * 8
        + tables.segment(tables.CODE_R0)
        + tables.segment(tables.DATA_R0)
        + tables.segment(tables.CODE_R0, tables.FLAT_64)
        + tables.segment(tables.CODE_R0, tables.BYTES_16, 0x1_0000, 0xFFFF)
    )
    pc.write(0x1000, gdt)
    pc.write(GDTR, struct.pack("<HI", len(gdt) - 1, 0x1000))
    pc.write32(DIRECTORY, 0x83)  # 4 MiB page at 0
    pc.write64(PDPT, PD | 1)
    pc.write64(PD, 0x83)  # 2 MiB page at 0
    pc.write64(PML4, PDPT_64 | 3)
    pc.write64(PDPT_64, PD | 3)


def write_code(pc: Pc) -> None:
    def put(at: int, text: str, bits: int) -> None:
        pc.write(at, code(text, bits))

    put(REAL, f"""
        b8 00 08            ; mov ax, 0x800
        8e d8               ; mov ds, ax
        66 0f 01 16 00 00   ; lgdt [0]
        0f 20 c0            ; mov eax, cr0
        0c 01               ; or al, 1
        0f 22 c0            ; mov cr0, eax
        66 ea {le(PROTECTED)} {le(C32, 2)} ; jmp C32:PROTECTED
    """, 16)  # fmt: skip
    put(PROTECTED, f"""
        b8 10 00 00 00      ; mov eax, 0x10
        8e d8               ; mov ds, ax
        8e c0               ; mov es, ax
        8e d0               ; mov ss, ax
        bc 00 00 02 00      ; mov esp, 0x20000
        b8 10 00 00 00      ; mov eax, 0x10
        0f 22 e0            ; mov cr4, eax
        b8 {le(DIRECTORY)}  ; mov eax, DIRECTORY
        0f 22 d8            ; mov cr3, eax
        b8 {le(PG | PE)}    ; mov eax, PG | PE
        0f 22 c0            ; mov cr0, eax
        bb 22 00 00 00      ; mov ebx, 0x22
        b8 {le(PE)}         ; mov eax, PE
        0f 22 c0            ; mov cr0, eax
        b8 {le(PAGED)}      ; mov eax, PAGED
        ff e0               ; jmp eax
    """, 32)  # fmt: skip
    put(PAGED, f"""
        b8 20 00 00 00      ; mov eax, 0x20
        0f 22 e0            ; mov cr4, eax
        b8 {le(PDPT)}       ; mov eax, PDPT
        0f 22 d8            ; mov cr3, eax
        b8 {le(PG | PE)}    ; mov eax, PG | PE
        0f 22 c0            ; mov cr0, eax
        b9 33 00 00 00      ; mov ecx, 0x33
        b8 {le(PE)}         ; mov eax, PE
        0f 22 c0            ; mov cr0, eax
        51                  ; push ecx
        b8 {le(PML4)}       ; mov eax, PML4
        0f 22 d8            ; mov cr3, eax
        b9 {le(EFER)}       ; mov ecx, EFER
        0f 32               ; rdmsr
        0d 00 01 00 00      ; or eax, 0x100
        0f 30               ; wrmsr
        b8 {le(PG | PE)}    ; mov eax, PG | PE
        0f 22 c0            ; mov cr0, eax
        0f 32               ; rdmsr
        89 c6               ; mov esi, eax
        59                  ; pop ecx
        ea {le(LONG)} {le(C64, 2)} ; jmp C64:LONG
    """, 32)  # fmt: skip
    put(LONG, f"""
        48 ba 44 00 00 00 00 80 ff ff   ; mov rdx, 0xffff800000000044
        50                              ; push rax
        58                              ; pop rax
        68 {le(C32)}                    ; push C32
        68 {le(COMPATIBILITY)}          ; push COMPATIBILITY
        48 cb                           ; retf
    """, 64)  # fmt: skip
    put(COMPATIBILITY, f"""
        48                  ; dec eax
        89 e7               ; mov edi, esp
        b8 {le(PE)}         ; mov eax, PE
        0f 22 c0            ; mov cr0, eax
        0f 20 c5            ; mov ebp, cr0
        ea {le(BACK - 0x1_0000)} {le(C16, 2)} ; jmp C16:BACK
    """, 32)  # fmt: skip
    put(BACK, """
        0f 20 c0            ; mov eax, cr0
        24 fe               ; and al, 0xfe
        0f 22 c0            ; mov cr0, eax
        ea 10 06 00 10      ; jmp 0x1000:0x610
        90                  ; nop
        90                  ; nop
        90                  ; nop
        b8 66 00            ; mov ax, 0x66
        f4                  ; hlt
    """, 16)  # fmt: skip


def test_from_real_mode_to_64_bit_mode_and_back() -> None:
    pc = real_pc()
    tables_for_all(pc)
    write_code(pc)
    seen: list[tuple[int, bool, bool, bool, bool]] = []
    event: Event | None = None
    while not isinstance(event, Halt):
        state = pc.state
        mode = (state.bits, state.protected_mode, bool(state.cr0 >> 31), bool(state.cr4 & 0x20), state.long_mode)
        if not seen or seen[-1] != mode:
            seen.append(mode)
        event = pc.cpu.run(pc.cpu.count + 1)
        pc.complete(event)
        assert pc.cpu.count < 200, f"lost at {state.rip:#x}"
    state = pc.state
    assert state[EBX] == 0x22, "32-bit paging"
    assert state[ECX] == 0x33, "PAE paging"
    assert state[ESI] & 0x500 == 0x500, "LME and LMA"
    assert state[EDX] == 0xFFFF_8000_0000_0044, "64-bit mode"
    assert state.register(EAX, 2) == 0x66, "real-address mode again"
    assert state[ESP] & 0xFFFF_FFFF == 0x2_0000
    assert (state.efer & 0x500, state.cr0) == (0x100, 0x10)
    assert (state.selector(SegmentRegister.CS), state.cpl) == (0x1000, 0)
    modes = [
        (16, False, False, False, False), (16, True, False, False, False), (32, True, False, False, False),
        (32, True, True, False, False), (32, True, False, False, False), (32, True, False, True, False),
        (32, True, True, True, False), (32, True, False, True, False), (32, True, True, True, True),
        (64, True, True, True, True), (32, True, True, True, True), (32, True, False, True, False),
        (16, True, False, True, False), (16, False, False, True, False),
    ]  # fmt: skip
    assert seen == modes
