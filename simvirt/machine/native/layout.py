"""The record that the native callbacks share with Python: engine.c's ``struct simvirt``, member by member.

All members that Python touches are 64-bit words, so that a view of words serves; `simvirt_layout` in the library
reports the C compiler's offsets, and the engine compares them at start.
"""

from __future__ import annotations

import ctypes
import struct
from enum import IntEnum
from typing import Final

from simvirt.x86.cpuid import Feature

MAX_REGIONS: Final = 32
MAX_OVERRIDES: Final = 16
MAX_CPUID: Final = 64
MAX_IMPLICIT: Final = 8
MAX_BREAKPOINTS: Final = 256
MAX_WATCHES: Final = 64
MAX_FAULTS: Final = 16
"""Natively delivered exceptions that the record remembers."""
_MAX_BLOCKS: Final = 1 << 20


INSTRUCTION_FEATURES: Final = (
    Feature.CX8, Feature.SEP, Feature.CMOV, Feature.CLFSH, Feature.MMX, Feature.FXSR, Feature.SSE, Feature.SSE2,
    Feature.SSE3, Feature.PCLMULQDQ, Feature.SSSE3, Feature.CX16, Feature.SSE4_1, Feature.SSE4_2, Feature.MOVBE,
    Feature.POPCNT, Feature.AES, Feature.FSGSBASE, Feature.BMI1, Feature.BMI2, Feature.ADX, Feature.SMAP,
    Feature.LAHF64, Feature.LZCNT,
)  # fmt: skip
"""The features that `features.c` knows the instructions of, in its order."""


class NativeEvent(IntEnum):
    """Why `simvirt_run` returned; the numbers are engine.c's."""

    NONE = 0
    LIMIT = 1
    SLICE = 2
    SVM_EXIT = 3
    REFUSED_FILL = 4
    IO = 5
    SYSTEM_CALL = 6
    ENGINE_ERROR = 7
    BREAKPOINT = 8
    DEBUG_REGISTERS = 9
    INSTRUCTION = 10
    STRING_LENGTH = 11
    ALIGNMENT = 12
    FLOATING = 13


class RegionWords(ctypes.Structure):
    """One region of the physical address space."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("first_page", "last_page", "host_page", "kind")]


class OverrideWords(ctypes.Structure):
    """One linear page that is served from a given host page for a moment."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("page", "host_page", "writable")]


class WatchWords(ctypes.Structure):
    """A range of linear addresses, and the accesses to it that are refused."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("first", "last", "accesses")]


class CpuidWords(ctypes.Structure):
    """One leaf of CPUID that is answered natively."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("leaf", "subleaf", "any_subleaf", "eax", "ebx", "ecx", "edx")]


class FaultWords(ctypes.Structure):
    """One exception that was delivered natively."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "count", "vector", "error_code", "has_error_code", "cr2", "has_cr2", "selector", "rip", "cpl"
        )
    ]  # fmt: skip


class SegmentWords(ctypes.Structure):
    """A segment register or a descriptor-table register, as the engine keeps it."""

    _fields_ = [
        ("selector", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    ]


class GuestWords(ctypes.Structure):
    """What a de-privileged guest's processor has and the real one does not hold for it."""

    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("window_base", ctypes.c_uint64),
        ("gdt", SegmentWords),
        ("idt", SegmentWords),
        ("ldt", SegmentWords),
        ("tr", SegmentWords),
    ]


GUEST_WORDS: Final = struct.Struct("=QQ" + 4 * "IIQII")
"""`GuestWords`, to be packed all at once."""


ORDER_WORDS: Final = struct.Struct("=10Q")
"""The members from `order_stands` to `order_taken`, to be packed all at once."""


def _words(text: str) -> list[tuple[str, type[ctypes.c_uint64]]]:
    return [(name, ctypes.c_uint64) for name in text.split()]


class SharedRecord(ctypes.Structure):
    """``struct simvirt`` of engine.c."""

    _fields_ = [
        *_words("uc cpu env emu_start emu_stop ctl reg_read leave_loop invalidate_range"),
        *_words(
            "off_env_eip off_env_eflags off_env_cc_src off_env_cc_op off_env_df off_env_hflags off_env_segs off_env_cr"
        ),
        *_words("off_env_efer off_env_error_code off_env_dr off_env_intercept"),
        *_words("off_env_ldt off_env_tr off_env_gdt off_env_idt off_env_pdptes off_env_tsc_aux"),
        *_words("off_env_fpus off_env_fp_status"),
        *_words("off_cpu_interrupt_request off_cpu_cflags_next off_cpu_jump_cache off_cpu_exit_request"),
        *_words("off_cpu_exception_index off_uc_bad_address"),
        ("tlb_window", ctypes.c_uint64 * 3),
        *_words("ram ram_pages page_flags a20_mask region_count"),
        ("regions", RegionWords * MAX_REGIONS),
        *_words("override_count"),
        ("overrides", OverrideWords * MAX_OVERRIDES),
        *_words("implicit_count"),
        ("implicit_pages", ctypes.c_uint64 * MAX_IMPLICIT),
        *_words("max_physical_bits gigabyte_pages absent_features ept_pointer host_physical_bits"),
        *_words("pml_address pml_index absent_page breakpoint_count"),
        ("breakpoints", ctypes.c_uint64 * MAX_BREAKPOINTS),
        *_words("watch_count"),
        ("watches", WatchWords * MAX_WATCHES),
        *_words("watches_open passed_pc passed_count"),
        ("followed_dr", ctypes.c_uint64 * 5),
        *_words("aligned port_checked floating_passed x87_unmasked simd_unmasked native_far_transfers"),
        *_words("slice_length count limit slice stepping window_wanted"),
        *_words("tsc_base tsc_native rdtscp_native cpuid_native pause_native cr3_native cpuid_count"),
        ("cpuid", CpuidWords * MAX_CPUID),
        *_words("deliverable last_delivery fruitless fruitless_limit"),
        ("delivered", ctypes.c_uint64 * 256),
        *_words("fault_count"),
        ("faults", FaultWords * MAX_FAULTS),
        ("guest", GuestWords),
        *_words("order_stands order_vector order_pulse order_period order_hz order_slept"),
        *_words("order_end_port order_end_value order_in_service order_taken"),
        *_words("event code instruction_length engine_status"),
        *_words("refusal fault_address fault_gpa fault_access fault_error fault_level fault_to_page"),
        *_words("io_port io_size io_is_out io_value io_opcode system_call debug_condition"),
        ("bytes", ctypes.c_uint8 * 16),
        *_words("byte_count fills cache_misses entries native_exits modified_blocks inlined_blocks"),
        ("remaining", ctypes.c_int64),
        ("current", ctypes.c_uint32),
        ("next_block", ctypes.c_uint32),
        ("granted", ctypes.c_int64),
        *_words("requested stopping met_in aborted refused_at delivery_tried alone"),
        ("saved_registers", ctypes.c_uint64 * 16),
        ("saved_dr", ctypes.c_uint64 * 8),
        *_words("io_pending dr6_before alias_writes"),
        ("blocks", ctypes.c_uint64 * _MAX_BLOCKS),
    ]


CHECKED_MEMBERS: Final = [
    "uc",
    "off_env_eip",
    "off_cpu_interrupt_request",
    "tlb_window",
    "ram",
    "regions",
    "override_count",
    "overrides",
    "implicit_count",
    "max_physical_bits",
    "breakpoint_count",
    "watches",
    "followed_dr",
    "count",
    "tsc_base",
    "cpuid_count",
    "cpuid",
    "deliverable",
    "delivered",
    "faults",
    "guest",
    "order_stands",
    "event",
    "refusal",
    "io_port",
    "bytes",
    "byte_count",
    "fills",
    "remaining",
    "current",
]
"""The members whose offsets `simvirt_layout` reports, in its order; the record's size follows."""


def word(member: str) -> int:
    """Index of a member in a view of 64-bit words."""
    return int(getattr(SharedRecord, member).offset) // 8
