from __future__ import annotations

from pathlib import Path

import iced_x86
import pytest

from simvirt.data import isa_directory
from simvirt.x86.decode import decode
from simvirt.x86.operations import Operation
from simvirt.x86.sensitivity import (
    SENSITIVE_FILE,
    FailureKind,
    InPaper,
    IsaFileError,
    Sensitivity,
    VtxBehaviour,
    classify,
    load_sensitivity,
    sensitivity_table,
)
from simvirt.x86.vmx.exit_reasons import ExitReason

TABLE = sensitivity_table()

# An encoding of every operation, 32-bit unless it says 64.
ENCODINGS: dict[str, str] = {
    "sgdt": "0f0100", "sidt": "0f0108", "sldt": "0f00c0", "str": "0f00c8", "lgdt": "0f0110", "lidt": "0f0118",
    "lldt": "0f00d0",
    "ltr": "0f00d8", "smsw": "0f01e0", "lmsw": "0f01f0", "clts": "0f06", "mov-to-cr": "0f22c0", "mov-from-cr": "0f20c0",
    "mov-to-dr": "0f23c0", "mov-from-dr": "0f21c0", "xgetbv": "0f01d0", "xsetbv": "0f01d1", "pushf": "9c", "popf": "9d",
    "cli": "fa", "sti": "fb", "clac": "0f01ca", "stac": "0f01cb", "lar": "0f02c0", "lsl": "0f03c0", "verr": "0f00e0",
    "verw": "0f00e8", "push-segment": "0e", "pop-segment": "1f", "mov-from-segment": "8cc8", "mov-to-segment": "8ed8",
    "load-far-pointer": "0fb200", "swapgs": "64 0f01f8", "call-far": "9a000000000800", "jmp-far": "ea000000000800",
    "ret-far": "cb", "int-n": "cd80", "int3": "cc", "into": "ce", "iret": "cf", "sysenter": "0f34", "sysexit": "0f35",
    "syscall": "64 0f05", "sysret": "64 0f07", "in": "ec", "out": "ee", "ins": "6c", "outs": "6e", "rdtsc": "0f31",
    "rdtscp": "0f01f9", "rdpid": "f30fc7f8", "rdpmc": "0f33", "cpuid": "0fa2", "rdmsr": "0f32", "wrmsr": "0f30",
    "invd": "0f08",
    "wbinvd": "0f09", "invlpg": "0f0138", "invpcid": "660f388200", "hlt": "f4", "monitor": "0f01c8", "mwait": "0f01c9",
    "xsaves": "0fc728", "xrstors": "0fc718", "getsec": "0f37", "vmcall": "0f01c1", "vmclear": "660fc730",
    "vmlaunch": "0f01c2",
    "vmresume": "0f01c3", "vmptrld": "0fc730", "vmptrst": "0fc738", "vmread": "0f78c0", "vmwrite": "0f79c0",
    "vmxon": "f30fc730",
    "vmxoff": "0f01c4", "invept": "660f388000", "invvpid": "660f388100", "vmrun": "0f01d8", "vmload": "0f01da",
    "vmsave": "0f01db", "stgi": "0f01dc", "clgi": "0f01dd", "skinit": "0f01de", "invlpga": "0f01df",
}  # fmt: skip
AMD = {Operation(name) for name in ("vmrun", "vmload", "vmsave", "stgi", "clgi", "skinit", "invlpga")}


def code_of(operation: Operation) -> tuple[bytes, int]:
    text = ENCODINGS[operation]
    return (bytes.fromhex(text[3:]), 64) if text.startswith("64 ") else (bytes.fromhex(text), 32)


def opcode_info(operation: Operation) -> iced_x86.OpCodeInfo:
    code, bits = code_of(operation)
    return iced_x86.Decoder(bits, code).decode().op_code()


def row_of(operation: Operation) -> Sensitivity:
    return TABLE.by_operation[operation]


# Robin & Irvine 2000: the headings of their list with the requirement each violates.
PAPER = {
    "3B": {"sgdt", "sidt", "sldt", "smsw", "pushf", "popf"},
    "3C": {"lar", "lsl", "verr", "verw", "pop-segment", "push-segment", "call-far", "jmp-far", "int-n", "ret-far",
    "str",
           "mov-from-segment", "mov-to-segment"},
}  # fmt: skip


def test_the_papers_list_is_complete_and_under_its_requirements() -> None:
    named = {op: row for op, row in TABLE.by_operation.items() if row.paper is InPaper.YES}
    assert set(named) == PAPER["3B"] | PAPER["3C"]
    for requirement, operations in PAPER.items():
        assert all(named[Operation(op)].requirement == requirement for op in operations)
    assert [op for op, row in TABLE.by_operation.items() if row.paper is InPaper.PROSE] == [Operation.IRET]
    assert all(row.is_critical for row in named.values())


def test_umip_fixes_exactly_five() -> None:
    assert {op for op, row in TABLE.by_operation.items() if row.umip_fixes} == {"sgdt", "sidt", "sldt", "smsw", "str"}


@pytest.mark.parametrize("operation", sorted(TABLE.by_operation))
def test_encodings_decode_to_their_operation_and_classify(operation: Operation) -> None:
    code, bits = code_of(operation)
    instruction = decode(code, 0, bits)
    assert instruction.operation is operation
    assert classify(instruction) is row_of(operation)


# By the decoder's tables these only may need CPL 0: it counts VMCALL, which is #UD outside of VMX operation, as
# unprivileged, knows AMD's setting that allows MONITOR and MWAIT at any level, and looks at the leaves of GETSEC.
MAY_NEED_CPL0 = {Operation.MONITOR, Operation.MWAIT, Operation.GETSEC, Operation.VMCALL}


@pytest.mark.parametrize("operation", sorted(TABLE.by_operation))
def test_privilege_agrees_with_the_decoders_tables(operation: Operation) -> None:
    info, row = opcode_info(operation), row_of(operation)
    if operation in MAY_NEED_CPL0:
        assert row.privileged
        assert info.must_be_cpl0 or info.may_require_cpl0
        return
    assert row.privileged == info.is_privileged
    if row.privileged:
        assert info.must_be_cpl0 == (row.privileged_when == "CPL > 0")
    # What a setting can make trap, the decoder says may require CPL 0. (XGETBV is #UD without OSXSAVE, at any CPL.)
    elif row.trap_controls != ("CR4.OSXSAVE",):
        assert info.may_require_cpl0 == bool(row.trap_controls)


@pytest.mark.parametrize("operation", sorted(set(TABLE.by_operation) - AMD))
def test_vtx_behaviour_agrees_with_the_decoders_tables(operation: Operation) -> None:
    info, row = opcode_info(operation), row_of(operation)
    match row.vtx:
        case VtxBehaviour.ALWAYS:
            assert info.intel_vm_exit
        case VtxBehaviour.CONTROL:
            # The decoder counts INT3 as always exiting; the bit for #BP in the exception bitmap decides (§26.2).
            assert info.intel_may_vm_exit or operation is Operation.INT3
        case VtxBehaviour.SHADOW:
            # The decoder thinks that SMSW may exit; by §26.1.3 LMSW may, and by §26.3 SMSW reads the shadow.
            assert operation is Operation.SMSW
        case VtxBehaviour.OWN_STATE:
            assert not info.intel_vm_exit
            # What the decoder says may exit does so by a task switch only.
            assert not info.intel_may_vm_exit or ExitReason.TASK_SWITCH in row.vtx_exit_reasons


def test_the_decoder_knows_no_privileged_operation_that_the_table_misses() -> None:
    """Everything that needs CPL 0 by the decoder's tables and that a monitor tells apart is in the table."""
    missing = {
        operation
        for operation in Operation
        if operation not in TABLE.by_operation and operation not in (Operation.OTHER, Operation.INVALID)
    }
    assert missing == {
        "arpl", "bound", "int1", "pause", "rdrand", "rdseed", "rdpkru", "wrpkru", "rdfsbase", "rdgsbase", "wrfsbase",
        "wrgsbase",
        "rsm", "vmfunc", "vmmcall",
    }  # fmt: skip


CS_OR_SS = "MOV from CS, MOV from SS"


@pytest.mark.parametrize(
    ("code", "title"),
    [
        ("0e", "PUSH CS, PUSH SS"),
        ("16", "PUSH CS, PUSH SS"),
        ("1e", None),
        ("06", None),
        ("8cc8", CS_OR_SS),
        ("8cd0", CS_OR_SS),
        ("8cd8", None),
        ("8ec8", None),
        ("ff1e", "CALL far"),
        ("ff16", None),
        ("90", None),
        ("8b00", None),
        ("0f0b", None),
        ("6339", None),
        ("0fae07", None),
    ],
)
def test_only_what_is_affected_is_sensitive(code: str, title: str | None) -> None:
    row = classify(decode(bytes.fromhex(code), 0, 32))
    assert (row.title if row else None) == title


def test_no_privileged_row_fails_silently() -> None:
    for row in TABLE.rows:
        assert row.privileged == (row.failure is FailureKind.TRAPS)
        assert row.source
        assert row.reason.endswith(".")


GOOD = """
[[instruction]]
operations = ["popf"]
title = "POPF"
paper = "yes"
requirement = "3B"
failure = "silent-drop"
reason = "Lost."
vtx = "own-state"
vtx_note = "none"
privileged = false
source = "SDM"
"""


def test_a_good_row_loads(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    assert [row.title for row in load_sensitivity(path).rows] == ["POPF"]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('source = "SDM"', "", 2, "field 'source' is missing"),
        ('source = "SDM"', 'source = " "', 2, "field 'source' is empty"),
        ("[[instruction]]", "# moved down\n\n[[instruction]]\nwrong = 1", 4, "unknown field wrong"),
        ('"silent-drop"', '"silent"', 2, "field 'failure' is 'silent'"),
        ("false", '"no"', 2, "field 'privileged' is 'no', expected bool"),
        ("false", "true", 2, "contradicts failure"),
        ('["popf"]', '["popf", "popg"]', 2, "'popg', which is none of its values"),
        ('["popf"]', '["popf", "popf"]', 2, "names something twice"),
        ('["popf"]', "[]", 2, "expected a list of strings"),
        ('["popf"]', '["other"]', 2, "no operations to classify"),
        ('"own-state"', '"always"', 2, "has an exit reason"),
        ('"3B"', '""', 2, "violates a requirement"),
        ("false", "false\numip_fixes = true", 2, "umip_fixes contradicts"),
        ("false", 'false\nprivileged_when = "CPL > 0"', 2, "says when"),
        ("false", 'false\nvtx_exit_reasons = ["POPF"]', 2, "names 'POPF', which does not exist"),
        ("[[instruction]]", "[[instruction", 1, "not TOML"),
        ("[[instruction]]", "[[row]]", 1, "expected nothing but"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    path = tmp_path / "bad.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(IsaFileError, match=message) as caught:
        load_sensitivity(path)
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_two_rows_may_not_claim_one_operation(tmp_path: Path) -> None:
    path = tmp_path / "twice.toml"
    path.write_text(GOOD + GOOD)
    with pytest.raises(IsaFileError, match="'popf' is in the row of line 2 already") as caught:
        load_sensitivity(path)
    assert caught.value.line == 14


def test_the_file_is_found_where_isa_lies() -> None:
    assert load_sensitivity(isa_directory() / SENSITIVE_FILE).rows == TABLE.rows
