"""Instructions that the engine takes for others (machine/misread_instructions.py) do what the manual says."""

from __future__ import annotations

import struct

import pytest

from simvirt.machine.events import ExceptionRaised
from simvirt.machine.misread_instructions import as_engine_reads_it
from simvirt.x86.decode import decode
from simvirt.x86.flags import Cr4, Eflags
from simvirt.x86.registers import GeneralRegister as G
from tests.support.pc import CODE, DATA, PAGE_TABLES, Pc, flat_pc, long_pc, real_pc


def _pc(bits: int) -> Pc:
    pc = {16: real_pc, 32: flat_pc, 64: long_pc}[bits]()
    pc.state.set_control_register(4, pc.state.cr4 | int(Cr4.OSFXSR))
    pc.state.refresh()
    if bits != 16:
        pc.state[G.RSI] = DATA
    return pc


@pytest.mark.parametrize(
    ("code", "taken"),
    [
        ("66 eb 02", 5),
        ("66 e9 02 00 00 00", 8),
        ("66 0f 84 02 00 00 00", 9),  # JZ, ZF = 1
        ("66 0f 85 02 00 00 00", 7),  # JNZ
        ("66 75 02", 3),
        ("66 e2 02", 5),  # LOOP, RCX = 2
        ("66 e8 02 00 00 00", 8),
        ("66 ff e0", 0x40),  # JMP RAX
        ("66 2e ff d0", 0x40),
    ],
)
def test_66_means_nothing_before_a_near_branch_in_64_bit_mode(code: str, taken: int) -> None:
    """SDM Vol. 2A "Jcc", "CALL", "JMP": the operand size is 64 bits, whatever the prefix."""
    pc = _pc(64)
    at = pc.state.rip
    pc.state[G.RAX], pc.state[G.RCX] = at + 0x40, 2
    pc.state.eflags |= int(Eflags.ZF)
    pc.write(at, bytes.fromhex(code))
    pc.step()
    assert pc.state.rip == at + taken
    if "e8" in code or "ff d0" in code:
        assert pc.read(pc.state.rsp, 8) == at + len(bytes.fromhex(code))


def test_66_before_a_near_return_in_64_bit_mode() -> None:
    pc = _pc(64)
    pc.state.rsp -= 8
    pc.write(pc.state.rsp, struct.pack("<Q", CODE + 0x123456))
    pc.write(pc.state.rip, bytes.fromhex("66 c3"))
    before = pc.state.rsp
    pc.step()
    assert (pc.state.rip, pc.state.rsp) == (CODE + 0x123456, before + 8)


def _crc32c(crc: int, data: bytes) -> int:
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def test_66_means_nothing_before_crc32_and_popcnt_with_rex_w() -> None:
    """SDM Vol. 2A §2.2.1.2: REX.W goes before 66."""
    pc = _pc(64)
    pc.state[G.RAX], pc.state[G.RCX] = 0x12345678, 0xFEDC_BA98_7654_3210
    pc.load("66 f2 48 0f 38 f1 c1 ; raw\n 66 f3 48 0f b8 d1 ; raw\n f4 ; hlt")
    pc.run()
    assert pc.state[G.RAX] == _crc32c(0x12345678, struct.pack("<Q", 0xFEDC_BA98_7654_3210))
    assert pc.state[G.RDX] == (0xFEDC_BA98_7654_3210).bit_count()


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("66 f3 0f 58 06", struct.pack("<4f", 3, 20, 30, 40)),  # ADDSS, not ADDPD
        ("f3 66 0f 58 06", struct.pack("<4f", 3, 20, 30, 40)),
        ("66 f3 0f 10 06", struct.pack("<4f", 2, 0, 0, 0)),  # MOVSS
        ("66 f3 0f 6f 06", struct.pack("<4f", 2, 5, 6, 7)),  # MOVDQU
        ("0f c2 06 09", struct.pack("<4I", 0xFFFFFFFF, 0, 0, 0)),  # CMPLTPS, with a reserved bit
        ("66 f3 0f c2 06 f9", struct.pack("<I3f", 0xFFFFFFFF, 20, 30, 40)),
    ],
)
def test_sse_instructions(code: str, result: bytes, bits: int) -> None:
    """SDM Vol. 2A §2.1.2: F2 and F3 go before 66; Vol. 2A "CMPPS": bits 7 to 3 of the predicate are ignored."""
    pc = _pc(bits)
    pc.write(DATA, struct.pack("<4f", 2, 5, 6, 7))
    pc.write(DATA + 0x20, struct.pack("<4f", 1, 20, 30, 40))
    pc.load(f"0f 10 46 20 ; movups\n {code} ; raw\n 0f 11 46 40 ; movups\n f4 ; hlt")
    pc.run()
    assert not any(isinstance(event, ExceptionRaised) for event in pc.events)
    assert bytes(pc.memory[DATA + 0x40 : DATA + 0x50]) == result


def test_adox_behind_66() -> None:
    pc = _pc(32)
    pc.state[G.RAX], pc.state[G.RCX] = 1, 2
    pc.state.eflags = pc.state.eflags & ~int(Eflags.CF) | int(Eflags.OF)
    pc.load("66 f3 0f 38 f6 c1 ; raw\n f4 ; hlt")
    pc.run()
    assert pc.state[G.RAX] == 4
    assert not pc.state.eflags & int(Eflags.OF)


@pytest.mark.parametrize(
    ("bits", "code", "result"),
    [
        (64, "66 44 c7 06 34 12", 0x1234),  # MOV with REX.R
        (64, "44 c6 06 7f", 0x557F),
        (32, "f0 f7 1e", -0x5555),  # LOCK NEG
        (64, "f0 48 f7 1e", -0x5555),
    ],
)
def test_writes_to_memory(bits: int, code: str, result: int) -> None:
    pc = _pc(bits)
    pc.write(DATA, struct.pack("<Q", 0x5555))
    pc.load(f"{code} ; raw\n f4 ; hlt")
    pc.run()
    assert pc.read(DATA, 4) == result & 0xFFFFFFFF


def test_lock_neg_sets_the_flags_of_the_result() -> None:
    pc = _pc(32)
    pc.write(DATA, struct.pack("<I", 1))
    pc.load("f0 f7 1e ; lock neg\n f4 ; hlt")
    pc.run()
    assert pc.state.eflags & int(Eflags.SF | Eflags.CF) == int(Eflags.SF | Eflags.CF)


@pytest.mark.parametrize("bits", [16, 32])
def test_the_second_encoding_of_test_and_hints_of_a_register(bits: int) -> None:
    """SDM Vol. 2D Table A-6; Vol. 2B "NOP"."""
    pc = _pc(bits)
    pc.state[G.RAX] = 0x81
    pc.load("0f 0d c1 ; raw\n 0f 18 c1 ; raw\n f6 c8 81 ; raw\n f4 ; hlt")
    pc.run()
    assert not any(isinstance(event, ExceptionRaised) for event in pc.events)
    assert pc.state.eflags & int(Eflags.SF | Eflags.ZF | Eflags.PF) == int(Eflags.SF | Eflags.PF)
    assert pc.state[G.RAX] == 0x81


def test_faults_are_those_of_the_instruction_and_its_bytes_stay() -> None:
    pc = _pc(32)
    identity = PAGE_TABLES
    pc.write32(identity, identity + 0x1000 | 7)
    for page in range(1023):
        pc.write32(identity + 0x1000 + 4 * page, page << 12 | 7)
    pc.set_paging(identity, cr4=int(Cr4.OSFXSR))
    pc.state[G.RSI] = 0x3F_FFFC
    code = bytes.fromhex("66 f3 0f 10 06")
    pc.write(CODE, code)
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.cr2, pc.state.rip) == (14, 0x3F_FFFC, CODE)
    assert bytes(pc.memory[CODE : CODE + 5]) == code


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_no_other_instruction_is_changed(bits: int) -> None:
    """Whatever the opcode, what is given to the engine is the same instruction to the decoder."""
    for last in range(256):
        for text in (f"66 f3 0f {last:02x} c1 01 00 00 00 00", f"66 f2 0f {last:02x} c1 01 00 00 00 00"):
            code = bytes.fromhex(text)
            was = decode(code, CODE, bits)
            if not was.is_valid:
                continue
            given = as_engine_reads_it(was.encoding, bits)
            if given is not None:
                now = decode(given, CODE, bits)
                assert now.length == was.length
                if last not in (0x0D, 0x18):  # hints, of which a NOP is made
                    assert (now.mnemonic, now.operands) == (was.mnemonic, was.operands)


@pytest.mark.parametrize(
    "code",
    [
        "c4 e3 43 f0 c1 05",  # RORX with a register in vvvv
        "c4 e3 7f f0 c1 05",  # L
        "c4 e2 71 f2 c1",  # ANDN with pp = 66
        "c4 e2 78 f3 c1",  # group 17 /0
        "66 c4 e2 70 f2 c1",
        "f0 c4 e2 70 f2 c1",
    ],
)
def test_vex_encodings_beside_those_of_bmi_are_undefined(code: str) -> None:
    """SDM Vol. 2A §2.3.2 to §2.3.5; RORX so encoded ended the run of the whole machine once."""
    pc = _pc(32)
    pc.write(CODE, bytes.fromhex(code))
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, pc.state.rip) == (6, CODE)
