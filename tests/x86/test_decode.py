from __future__ import annotations

import random
import subprocess
import sys

import capstone
import iced_x86
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.x86.decode import (
    access_size,
    decode,
    disassemble,
    instruction_length,
    memory_operand,
    reads_descriptors,
    reads_memory,
    used_memory,
)
from simvirt.x86.instruction import (
    Access,
    Bits,
    BranchOperand,
    ControlOperand,
    DebugOperand,
    FarPointerOperand,
    Flow,
    GeneralOperand,
    ImmediateOperand,
    MemoryOperand,
    Operand,
    OtherRegisterOperand,
    Repeat,
    SegmentOperand,
)
from simvirt.x86.operations import Operation
from simvirt.x86.registers import ControlRegister, DebugRegister, GeneralRegister, SegmentRegister

EAX = GeneralOperand(GeneralRegister.RAX, 32)
DX = GeneralOperand(GeneralRegister.RDX, 16)
CR, DR, SEG = ControlRegister, DebugRegister, SegmentRegister


def memory(
    base: str | None, displacement: int = 0, size: int = 4, *, segment: str = "DS", bits: int = 32
) -> MemoryOperand:
    register = GeneralRegister[base] if base else None
    return MemoryOperand(SegmentRegister[segment], register, None, 1, displacement, bits, size)


# Bytes and meaning from the opcode tables of SDM Vol. 2D Appendix A.
KNOWN: list[tuple[str, int, str, Operation, tuple[Operand, ...]]] = [
    ("0f0100", 32, "sgdt", Operation.SGDT, (memory("RAX", size=6),)),
    ("0f0108", 32, "sidt", Operation.SIDT, (memory("RAX", size=6),)),
    ("0f0110", 32, "lgdt", Operation.LGDT, (memory("RAX", size=6),)),
    ("0f011d00100000", 64, "lidt", Operation.LIDT, (memory(None, 0x2007, 10, bits=64),)),
    ("0f00c0", 32, "sldt", Operation.SLDT, (EAX,)),
    ("0f00c8", 32, "str", Operation.STR, (EAX,)),
    ("0f00d0", 32, "lldt", Operation.LLDT, (GeneralOperand(GeneralRegister.RAX, 32),)),
    ("660f00d8", 32, "ltr", Operation.LTR, (GeneralOperand(GeneralRegister.RAX, 16),)),
    ("0f01e0", 32, "smsw", Operation.SMSW, (EAX,)),
    ("660f01f0", 32, "lmsw", Operation.LMSW, (GeneralOperand(GeneralRegister.RAX, 16),)),
    ("0f06", 32, "clts", Operation.CLTS, ()),
    ("0f20c3", 32, "mov", Operation.MOV_FROM_CR, (GeneralOperand(GeneralRegister.RBX, 32), ControlOperand(CR.CR0))),
    ("440f22c0", 64, "mov", Operation.MOV_TO_CR, (ControlOperand(CR.CR8), GeneralOperand(GeneralRegister.RAX, 64))),
    ("0f23f8", 32, "mov", Operation.MOV_TO_DR, (DebugOperand(DR.DR7), EAX)),
    ("0f21f0", 32, "mov", Operation.MOV_FROM_DR, (EAX, DebugOperand(DR.DR6))),
    ("9c", 32, "pushfd", Operation.PUSHF, ()),
    ("669d", 32, "popf", Operation.POPF, ()),
    ("9d", 64, "popfq", Operation.POPF, ()),
    ("cf", 32, "iretd", Operation.IRET, ()),
    ("48cf", 64, "iretq", Operation.IRET, ()),
    ("fa", 32, "cli", Operation.CLI, ()),
    ("fb", 32, "sti", Operation.STI, ()),
    ("0e", 32, "push", Operation.PUSH_SEGMENT, (SegmentOperand(SEG.CS),)),
    ("17", 32, "pop", Operation.POP_SEGMENT, (SegmentOperand(SEG.SS),)),
    ("0fa1", 64, "pop", Operation.POP_SEGMENT, (SegmentOperand(SEG.FS),)),
    ("50", 32, "push", Operation.OTHER, (EAX,)),
    ("8cc8", 32, "mov", Operation.MOV_FROM_SEGMENT, (EAX, SegmentOperand(SEG.CS))),
    ("8ed0", 32, "mov", Operation.MOV_TO_SEGMENT, (SegmentOperand(SEG.SS), EAX)),
    ("89c3", 32, "mov", Operation.OTHER, (GeneralOperand(GeneralRegister.RBX, 32), EAX)),
    ("9a785634120800", 32, "call", Operation.CALL_FAR, (FarPointerOperand(8, 0x1234_5678),)),
    ("ea34120800", 16, "jmp", Operation.JMP_FAR, (FarPointerOperand(8, 0x1234),)),
    ("ff1e", 32, "call", Operation.CALL_FAR, (memory("RSI", size=6),)),
    ("ff16", 32, "call", Operation.OTHER, (memory("RSI"),)),
    ("e8fbffffff", 32, "call", Operation.OTHER, (BranchOperand(0x1000),)),
    ("cb", 32, "retf", Operation.RET_FAR, ()),
    ("c3", 32, "ret", Operation.OTHER, ()),
    ("cd80", 32, "int", Operation.INT_N, (ImmediateOperand(0x80),)),
    ("cc", 32, "int3", Operation.INT3, ()),
    ("f1", 32, "int1", Operation.INT1, ()),
    ("ce", 32, "into", Operation.INTO, ()),
    ("e460", 32, "in", Operation.IN, (GeneralOperand(GeneralRegister.RAX, 8), ImmediateOperand(0x60))),
    ("ef", 32, "out", Operation.OUT, (DX, EAX)),
    ("f36c", 32, "insb", Operation.INS, (memory("RDI", size=1, segment="ES"), DX)),
    ("646f", 32, "outsd", Operation.OUTS, (DX, memory("RSI", segment="FS"))),
    ("0fb226", 32, "lss", Operation.LOAD_FAR_POINTER, (GeneralOperand(GeneralRegister.RSP, 32), memory("RSI", size=6))),
    ("0f02c3", 32, "lar", Operation.LAR, (EAX, GeneralOperand(GeneralRegister.RBX, 32))),
    ("0fa2", 32, "cpuid", Operation.CPUID, ()),
    ("f4", 32, "hlt", Operation.HLT, ()),
    ("0f01c1", 32, "vmcall", Operation.VMCALL, ()),
    ("f30f09", 64, "wbnoinvd", Operation.WBINVD, ()),
    ("d9e8", 32, "fld1", Operation.OTHER, ()),
    ("0f57c1", 32, "xorps", Operation.OTHER, (OtherRegisterOperand("xmm0"), OtherRegisterOperand("xmm1"))),
    ("88e1", 32, "mov", Operation.OTHER,
     (GeneralOperand(GeneralRegister.RCX, 8), GeneralOperand(GeneralRegister.RAX, 8, high_byte=True))),
]  # fmt: skip


@pytest.mark.parametrize(("code", "bits", "mnemonic", "operation", "operands"), KNOWN, ids=[row[0] for row in KNOWN])
def test_known_encodings(
    code: str, bits: int, mnemonic: str, operation: Operation, operands: tuple[Operand, ...]
) -> None:
    instruction = decode(bytes.fromhex(code) + b"\x90" * 4, 0x1000, bits)
    assert (instruction.mnemonic, instruction.operation) == (mnemonic, operation)
    assert instruction.encoding == bytes.fromhex(code)
    assert instruction.operands == operands
    assert instruction.next_address == 0x1000 + instruction.length


@pytest.mark.parametrize("operation", [op for op in Operation if op not in (Operation.OTHER, Operation.INVALID)])
def test_every_operation_can_be_met(operation: Operation) -> None:
    """Each member is what some instruction of the decoder's own list decodes to."""
    assert operation in _operations_of_all_codes()


_met: set[Operation] = set()


def _operations_of_all_codes() -> set[Operation]:
    if not _met:
        prefixes = [b"", b"\x66", b"\xf3", b"\xf2", b"\x48", b"\xf3\x48", b"\x66\xf3", b"\x66\x48"]
        opcodes = [bytes([byte]) for byte in range(256)] + [bytes([0x0F, byte]) for byte in range(256)]
        opcodes += [bytes([0x0F, 0x38, byte]) for byte in range(0x80, 0x90)]
        for bits in (32, 64):
            for prefix in prefixes:
                for opcode in opcodes:
                    for modrm in (*range(0, 64, 8), *range(0xC0, 0x100)):
                        _met.add(decode(prefix + opcode + bytes([modrm]) + bytes(8), 0, bits).operation)
    return _met


def test_a_second_decoder_measures_the_same_lengths() -> None:
    """Capstone as witness; what they disagree on is known, and the manual sides with iced-x86."""
    source = random.Random(20001)
    modes = ((16, capstone.CS_MODE_16), (32, capstone.CS_MODE_32), (64, capstone.CS_MODE_64))
    same = 0
    for bits, mode in modes:
        witness = capstone.Cs(capstone.CS_ARCH_X86, mode)
        for _ in range(3000):
            code = source.randbytes(15)
            ours = instruction_length(code, bits)
            theirs = next(
                ((length, name, text) for _, length, name, text in witness.disasm_lite(code, 0, 1)), (0, "", "")
            )
            if ours == theirs[0]:
                same += 1
            elif ours == 0:
                # MOV to CS and MOV to a control register that does not exist are #UD; so is LOCK before ADD r, m.
                assert theirs[1].startswith("lock") or theirs[2].startswith(("cs,", "cr")), (code.hex(), theirs)
            elif theirs[0] == 0:
                name = decode(code, 0, bits).mnemonic
                # Undocumented aliases of x87 instructions, and opcodes that the manual reserves as NOP.
                assert name.startswith("f") or name in ("reservednop", "lfence", "mfence", "sfence"), (code.hex(), name)
            else:
                assert decode(code, 0, bits).mnemonic in ("ud0", "ud1"), code.hex()  # these have a ModR/M byte
    assert same > 0.99 * 9000


@given(st.binary(max_size=20), st.integers(0, (1 << 32) - 1), st.sampled_from(Bits))
def test_any_bytes_decode_to_something(code: bytes, ip: int, bits: Bits) -> None:
    instruction = decode(code, ip, bits)
    assert code.startswith(instruction.encoding)
    assert instruction.length <= 15
    assert instruction.length >= min(1, len(code))
    assert instruction_length(code, bits) == (instruction.length if instruction.is_valid else 0)
    assert disassemble(code, ip, bits)
    uses = used_memory(instruction)
    assert reads_memory(code, ip, bits) == any(use.access.reads for use in uses)
    assert memory_operand(code, ip, bits) == instruction.memory
    reads_descriptors(code, bits)
    for is_write in (False, True):
        access_size(code, ip, bits, is_write=is_write)
    if not instruction.is_valid:
        assert (instruction.operation, uses, instruction.operands) == (Operation.INVALID, (), ())


@given(st.binary(min_size=1, max_size=15), st.sampled_from(Bits))
def test_address_and_operand_facts_agree_with_the_decoders_tables(code: bytes, bits: Bits) -> None:
    raw = iced_x86.Decoder(bits, code).decode()
    instruction = decode(code, 0, bits)
    assert bool(raw) == instruction.is_valid
    if raw:
        assert instruction.is_privileged == raw.is_privileged
        assert instruction.stack_pointer_increment == raw.stack_pointer_increment
        assert len(instruction.operands) == raw.op_count


@pytest.mark.parametrize("code", ["0f", "8b", "66", "e8000000", ""])
def test_cut_off_bytes_say_so(code: str) -> None:
    instruction = decode(bytes.fromhex(code), 0, 32)
    assert not instruction.is_valid
    assert instruction.is_truncated


def test_undefined_bytes_are_not_cut_off() -> None:
    assert decode(b"\x0f\x0b", 0, 32).mnemonic == "ud2"
    assert decode(b"\x8e\xc8", 0, 32).operation is Operation.INVALID
    assert not decode(b"\x8e\xc8", 0, 32).is_truncated
    assert disassemble(b"\x8e\xc8", 0, 32) == "db 0x8e, 0xc8"


def test_prefixes_and_sizes() -> None:
    movs = decode(bytes.fromhex("f3a4"), 0, 32)
    assert (movs.repeat, movs.has_lock, movs.segment_override) == (Repeat.REPE, False, None)
    assert decode(bytes.fromhex("f2ae"), 0, 32).repeat is Repeat.REPNE
    locked = decode(bytes.fromhex("f0650100"), 0, 32)
    assert (locked.has_lock, locked.segment_override) == (True, SegmentRegister.GS)
    sizes = {
        (bits, code): decode(bytes.fromhex(code), 0, bits).address_size
        for bits in (16, 32, 64)
        for code in ("a4", "67a4")
    }
    # SDM Vol. 1 Tables 3-3 and 3-4
    assert sizes == {
        (16, "a4"): 16,
        (16, "67a4"): 32,
        (32, "a4"): 32,
        (32, "67a4"): 16,
        (64, "a4"): 64,
        (64, "67a4"): 32,
    }
    assert [
        decode(bytes.fromhex(code), 0, bits).operand_size
        for code, bits in (("9d", 32), ("669d", 32), ("9d", 64), ("9d", 16))
    ] == [
        32,
        16,
        64,
        16,
    ]


@pytest.mark.parametrize(
    ("code", "flow"),
    [("90", Flow.NEXT), ("ebfe", Flow.JUMP), ("7400", Flow.CONDITIONAL_JUMP), ("ffe0", Flow.INDIRECT_JUMP),
    ("e800000000", Flow.CALL),
     ("ffd0", Flow.INDIRECT_CALL), ("c3", Flow.RETURN), ("cf", Flow.RETURN), ("cd80", Flow.INTERRUPT),
     ("0f0b", Flow.EXCEPTION)],
)  # fmt: skip
def test_flow(code: str, flow: Flow) -> None:
    assert decode(bytes.fromhex(code), 0, 32).flow is flow


@pytest.mark.parametrize(
    ("code", "accesses"),
    [
        ("8b00", [("read", 4)]),
        ("8900", [("write", 4)]),
        ("0100", [("read-write", 4)]),
        ("8d00", []),
        ("50", [("write", 4)]),
        ("ff30", [("read", 4), ("write", 4)]),
        ("a5", [("read", 4), ("write", 4)]),
        ("0f0100", [("write", 6)]),
        ("c8100000", [("write", 4)]),
    ],
)
def test_used_memory(code: str, accesses: list[tuple[str, int]]) -> None:
    uses = used_memory(decode(bytes.fromhex(code), 0, 32))
    assert sorted((use.access.value, use.operand.size) for use in uses if use.access is not Access.NONE) == sorted(
        accesses
    )


def test_access_sizes() -> None:
    assert access_size(bytes.fromhex("0fb600"), 0, 32, is_write=False) == 1
    assert access_size(bytes.fromhex("66c7000000"), 0, 32, is_write=True) == 2
    assert access_size(bytes.fromhex("f3ab"), 0, 32, is_write=True) == 4
    assert access_size(bytes.fromhex("90"), 0, 32, is_write=True) == 0


@pytest.mark.parametrize(
    ("code", "bits", "values", "address"),
    [
        ("8b448b10", 32, {"RBX": 0x1_0000_1000, "RCX": 0x20}, 0x1090),
        ("8b40fc", 32, {"RAX": 2}, 0xFFFF_FFFE),
        ("8b07", 16, {"RBX": 0xABCD_FFFF}, 0xFFFF),
        ("8b00", 16, {"RBX": 0xF000, "RSI": 0x2000}, 0x1000),
        ("8b0510000000", 64, {}, 0x1016),
        ("668b06", 32, {"RSI": 7}, 7),
    ],
)
def test_effective_addresses(code: str, bits: int, values: dict[str, int], address: int) -> None:
    operand = memory_operand(bytes.fromhex(code), 0x1000, bits)
    assert operand is not None
    assert operand.effective_address(lambda register: values[register.name]) == address


def test_text_is_intel_syntax() -> None:
    assert disassemble(b"\x8b\x44\x8b\x10", 0, 32) == "mov eax, [ebx+ecx*4+0x10]"
    assert disassemble(b"\x74\xfe", 0x1000, 32) == "je 0x1000"
    assert disassemble(b"\x0f\x22\xd8", 0, 32) == "mov cr3, eax"


def test_importing_the_module_imports_no_decoder() -> None:
    script = "import sys, simvirt.x86.decode; print([m for m in ('iced_x86', 'capstone') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
