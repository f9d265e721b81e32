"""Where Unicorn keeps what its interface hides, for each verified platform.

The engine reaches some members of Unicorn's own structures by their offsets. They hold for one version and one
platform's ABI, so the engine refuses any other version, and a state that does not lie where it should, when it is
constructed. A platform that nobody has verified is refused with a message: wrong offsets would overwrite foreign
memory.

Verified by experiment against Unicorn 2.1.4; members named as in QEMU 5.0 (target/i386/cpu.h, include/hw/core/cpu.h).
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from typing import Final

from simvirt.errors import EngineError

UNICORN_VERSION: Final = "2.1.4"


@dataclass(frozen=True, slots=True)
class StateOffsets:
    """Offsets in CPUX86State, in bytes."""

    eip: int = 128
    eflags: int = 136
    cc_src: int = 152
    cc_op: int = 168
    df: int = 172
    hflags: int = 176
    hflags2: int = 180
    segments: int = 184
    ldt: int = 328
    tr: int = 352
    gdt: int = 376
    idt: int = 400
    cr: int = 424
    efer: int = 592
    fpus: int = 608
    fpuc: int = 610
    fpregs: int = 624
    fpop: int = 752
    fpcs: int = 754
    fpds: int = 756
    fp_status: int = 776
    ft0: int = 784
    sse_status: int = 808
    mxcsr: int = 816
    xmm: int = 824
    sysenter_cs: int = 4800
    sysenter_esp: int = 4808
    sysenter_eip: int = 4816
    star: int = 4824
    lstar: int = 4840
    cstar: int = 4848
    fmask: int = 4856
    kernel_gs_base: int = 4864
    tsc_aux: int = 4896
    misc_enable: int = 4920
    pdptes: int = 4992
    """Ours: msr_gp_counters, which the engine keeps for a hypervisor that it is not."""
    mtrrs: int = 5024
    """Ours: the rest of msr_gp_counters, and msr_gp_evtsel."""
    pat: int = 5280
    error_code: int = 5384
    exception_is_int: int = 5388
    dr: int = 5400
    old_exception: int = 5496
    vmcb: int = 5504
    intercept: int = 5520
    intercept_cr_read: int = 5528
    intercept_cr_write: int = 5530
    intercept_dr_read: int = 5532
    intercept_dr_write: int = 5534
    intercept_exceptions: int = 5536
    features: int = 5632
    size: int = 5568
    """Bytes up to the end of the part that a reset clears: the image that `uc_context_save` copies."""


@dataclass(frozen=True, slots=True)
class CodeSite:
    """A place in Unicorn's own code: its distance from `uc_emu_start`, what stands there, and what shall."""

    distance: int
    original: bytes
    changed: bytes


@dataclass(frozen=True, slots=True)
class Platform:
    """One verified pair of operating system and processor, with the engine's offsets there."""

    name: str
    """For people."""
    library_suffix: str
    """Of the native callbacks' file name."""
    state: StateOffsets
    uc_cpu: int
    """uc_struct.cpu"""
    uc_bad_address: int
    """uc_struct.invalid_addr: the full address of a refused fill."""
    cpu_env: int
    """CPUState.env_ptr"""
    cpu_interrupt_request: int
    """CPUState.interrupt_request"""
    cpu_cflags_next: int
    """CPUState.cflags_next_tb"""
    cpu_jump_cache: int
    """CPUState.tb_jmp_cache"""
    cpu_exit_request: int
    """CPUState.exit_request"""
    cpu_exception_index: int
    """CPUState.exception_index"""
    tlb_windows: tuple[int, int, int]
    """CPUTLBDesc.window_begin_ns of the three TLBs, as distances in front of CPUX86State."""
    context_header: int
    """Bytes in front of the state in a `uc_context`."""
    bit_test_flags: CodeSite | None
    """Where the translator chooses how BT and its kin treat the flags (`machine.engine_code`)."""
    search_for_stores: CodeSite | None
    """`tlb_reset_dirty_by_vaddr`, by which the translator searches the TLBs (likewise)."""


LINUX_X86_64: Final = Platform(
    name="Linux x86-64",
    library_suffix=".so",
    state=StateOffsets(),
    uc_cpu=0x1B8,
    uc_bad_address=1416,
    cpu_env=0x128,
    cpu_interrupt_request=0x1C,
    cpu_cflags_next=24,
    cpu_jump_cache=0x138,
    cpu_exit_request=0x15,
    cpu_exception_index=0x81A0,
    tlb_windows=(752, 1448, 2144),
    context_header=40,
    # sub eax, 2; cmp eax, 2Bh; ja …  ->  sub eax, 2; cmp eax, 2Bh; nop; jmp …
    bit_test_flags=CodeSite(
        0xA08AE, bytes.fromhex("83e802 83f82b 0f87 b86e0000"), bytes.fromhex("83e802 83f82b 90e9 b86e0000")
    ),
    # mov r9, rdi; mov r8, rsi; mov rdi, rdx  ->  ret; …
    search_for_stores=CodeSite(
        0x4E240, bytes.fromhex("4989f9 4989f0 4889d7 4d8b99"), bytes.fromhex("c389f9 4989f0 4889d7 4d8b99")
    ),
)

VERIFIED: Final = {("linux", "x86_64"): LINUX_X86_64}


def current() -> Platform:
    """The platform of this process.

    :raises EngineError: nobody has verified the engine on it.
    """
    system, processor = sys.platform, platform.machine().lower()
    found = VERIFIED.get((system, {"amd64": "x86_64"}.get(processor, processor)))
    if found is None:
        verified = ", ".join(p.name for p in VERIFIED.values())
        raise EngineError(
            f"simvirt is not verified on {system} {processor}: its engine relies on Unicorn {UNICORN_VERSION}'s memory "
            f"layout, which is known for {verified} only. Use one of these, for example in a virtual machine or a "
            "container."
        )
    return found
