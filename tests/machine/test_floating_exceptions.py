"""x87 and SSE exceptions: flags, masks, #MF and #XM (SDM Vol. 1 §8.5 to §8.7, §11.5; Vol. 3A §6.15)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random

import pytest

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.events import ExceptionRaised
from simvirt.machine.floating_point import FloatingPoint
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr0, Cr4
from tests.support.code import le
from tests.support.pc import CODE, DATA, EAX, ESI, STACK, Pc, flat_pc, long_pc

IE, DE, ZE, OE, UE, PE = (1 << bit for bit in range(6))
ALL_MASKED, FZ, RESERVED = 0x1F80, 0x8000, 1 << 16
TINY, LARGE, SIGNALLING, QUIET = 1.2e-38, 3e38, 0x7F80_0001, 0x7FC0_0000
_OSFXSR, _OSXMMEXCPT = int(Cr4.OSFXSR), int(Cr4.OSXMMEXCPT)


def sse_pc(*, long: bool = False, cr4: int = _OSFXSR | _OSXMMEXCPT) -> Pc:
    pc = long_pc() if long else flat_pc()
    pc.state.set_control_register(4, pc.state.cr4 | cr4)
    pc.state.refresh()
    pc.state[ESI] = DATA
    return pc


def bits(value: float) -> int:
    return value if isinstance(value, int) else int(struct.unpack("<I", struct.pack("<f", value))[0])


def floating(pc: Pc) -> FloatingPoint:
    return FloatingPoint(pc.state.floating_point)


@dataclass(frozen=True)
class Operation:
    """A scalar operation on two numbers, and the exceptions that Vol. 1 §11.5.2 and Table E-1 want."""

    name: str
    code: str
    first: float | int
    second: float | int
    flags: int


OPERATIONS = (
    Operation("1 / 3", "f3 0f 5e 46 04 ; divss", 1.0, 3.0, PE),
    Operation("1 / 0", "f3 0f 5e 46 04 ; divss", 1.0, 0.0, ZE),
    Operation("0 / 0", "f3 0f 5e 46 04 ; divss", 0.0, 0.0, IE),
    Operation("1 + 1", "f3 0f 58 46 04 ; addss", 1.0, 1.0, 0),
    Operation("large * large", "f3 0f 59 46 04 ; mulss", LARGE, LARGE, OE | PE),
    Operation("tiny * tiny", "f3 0f 59 46 04 ; mulss", TINY, TINY, UE | PE),
    Operation("signalling - 1", "f3 0f 5c 46 04 ; subss", SIGNALLING, 1.0, IE),
    Operation("quiet - 1", "f3 0f 5c 46 04 ; subss", QUIET, 1.0, 0),
    Operation("sqrt(-1)", "f3 0f 51 46 04 ; sqrtss", 0.0, -1.0, IE),
    Operation("sqrt(2)", "f3 0f 51 46 04 ; sqrtss", 0.0, 2.0, PE),
    Operation("max(1, quiet)", "f3 0f 5f 46 04 ; maxss", 1.0, QUIET, IE),
    Operation("min(1, 2)", "f3 0f 5d 46 04 ; minss", 1.0, 2.0, 0),
    Operation("compare 1, quiet", "0f 2f 46 04 ; comiss", 1.0, QUIET, IE),
    Operation("compare unordered 1, quiet", "0f 2e 46 04 ; ucomiss", 1.0, QUIET, 0),
    Operation("compare unordered 1, signalling", "0f 2e 46 04 ; ucomiss", 1.0, SIGNALLING, IE),
    Operation("less than, quiet", "f3 0f c2 46 04 01 ; cmpss", 1.0, QUIET, IE),
    Operation("equal, quiet", "f3 0f c2 46 04 00 ; cmpss", 1.0, QUIET, 0),
    Operation("to integer 1.5", "f3 0f 2d 46 04 ; cvtss2si", 0.0, 1.5, PE),
    Operation("to integer 2", "f3 0f 2d 46 04 ; cvtss2si", 0.0, 2.0, 0),
    Operation("to integer 3e38", "f3 0f 2c 46 04 ; cvttss2si", 0.0, LARGE, IE),
    Operation("from integer 2**24 + 1", "f3 0f 2a 46 04 ; cvtsi2ss", 0.0, (1 << 24) + 1, PE),
    Operation("approximate 1 / 3", "f3 0f 53 46 04 ; rcpss", 0.0, 3.0, 0),
    Operation("approximate 1 / sqrt(-1)", "f3 0f 52 46 04 ; rsqrtss", 0.0, -1.0, 0),
    Operation("round 1.5", "66 0f 3a 0a 46 04 00 ; roundss", 0.0, 1.5, PE),
    Operation("round 1.5 quietly", "66 0f 3a 0a 46 04 08 ; roundss", 0.0, 1.5, 0),
)


def before(pc: Pc, operation: Operation, mxcsr: int) -> str:
    pc.write(DATA, struct.pack("<III", bits(operation.first), bits(operation.second), mxcsr))
    return "0f ae 56 08 ; ldmxcsr\nf3 0f 10 06 ; movss\n"


@pytest.mark.parametrize("long", [False, True], ids=["32", "64"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_masked_sse_exceptions_set_their_flags(operation: Operation, long: bool) -> None:
    pc = sse_pc(long=long)
    pc.load(before(pc, operation, ALL_MASKED) + operation.code + "\n0f ae 5e 0c ; stmxcsr\nf4 ; hlt")
    pc.run()
    assert pc.read(DATA + 12, 4) == ALL_MASKED | operation.flags
    assert not any(isinstance(event, ExceptionRaised) for event in pc.events)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_unmasked_sse_exceptions_are_xm_with_the_operands_as_they_were(operation: Operation) -> None:
    """MXCSR shows them; of what is found before computing the rest is not computed (§11.5.2)."""
    pc = sse_pc()
    head = before(pc, operation, 0)
    pc.load(head + operation.code + "\nf4 ; hlt")
    pc.step(2)
    state = ArchitecturalState.of(pc.state)
    registers = floating(pc)
    pc.run()
    if not operation.flags:
        assert pc.state.rip == CODE + 8 + len(bytes.fromhex(operation.code.split(";")[0]))
        assert floating(pc).mxcsr == 0
        return
    assert pc.vector == Vector.XM
    assert pc.stack(1) == [CODE + 8]
    assert pc.cpu.count == 2
    assert floating(pc).mxcsr == operation.flags
    registers.mxcsr = operation.flags
    assert pc.state.floating_point == bytes(registers)
    assert pc.state[EAX] == state.general[EAX]


@pytest.mark.parametrize("flag", [IE, ZE, OE, UE, PE])
def test_each_mask_masks_its_own(flag: int) -> None:
    operation = next(o for o in OPERATIONS if o.flags & flag)
    pc = sse_pc()
    head = before(pc, operation, ALL_MASKED & ~(flag << 7))
    pc.load(head + operation.code + "\nf4 ; hlt")
    pc.run()
    assert pc.vector == Vector.XM
    assert floating(pc).mxcsr == ALL_MASKED & ~(flag << 7) | operation.flags
    pc = sse_pc()
    head = before(pc, operation, flag << 7 | 0x1F80 & ~(operation.flags << 7) | operation.flags << 7)
    pc.load(head + operation.code + "\nf4 ; hlt")
    pc.run()
    assert not any(isinstance(event, ExceptionRaised) for event in pc.events)


def test_without_osxmmexcpt_it_is_ud() -> None:
    operation = OPERATIONS[1]
    pc = sse_pc(cr4=_OSFXSR)
    pc.load(before(pc, operation, 0) + operation.code)
    pc.run()
    assert (pc.vector, pc.stack(1)) == (Vector.UD, [CODE + 8])


def test_a_memory_fault_comes_before_xm() -> None:
    pc = sse_pc(long=True)
    pc.state[ESI] = 0x4000_0000  # 1 GiB: not mapped
    pc.write(DATA, struct.pack("<I", 0))
    pc.load(f"0f ae 14 25 {le(DATA)} ; ldmxcsr\nf3 0f 5e 06 ; divss")
    pc.run()
    assert pc.vector == Vector.PF


def test_a_single_step_trap_does_not_follow_a_fault() -> None:
    operation = OPERATIONS[1]
    pc = sse_pc()
    pc.load(before(pc, operation, 0) + operation.code)
    pc.step(2)
    pc.state.eflags |= 0x100
    pc.run()
    assert pc.vector == Vector.XM


def test_flush_to_zero_gives_zero_with_ue_and_pe_and_leaves_the_x87_alone() -> None:
    operation = Operation("tiny * tiny", "f3 0f 59 46 04 ; mulss", 2.0**-100, 2.0**-40, UE | PE)
    pc = sse_pc()
    head = before(pc, operation, ALL_MASKED | FZ)
    pc.load(head + operation.code + "\nd9 06 ; fld\nd8 4e 04 ; fmul\nd9 5e 0c ; fstp\nf4 ; hlt")
    pc.run()
    assert floating(pc).xmm(0) == 0
    assert floating(pc).mxcsr == ALL_MASKED | FZ | UE | PE
    assert pc.read(DATA + 12, 4) == bits(2.0**-140)


def test_flush_to_zero_counts_while_underflow_is_masked_alone() -> None:
    operation = Operation("tiny * tiny", "f3 0f 59 46 04 ; mulss", 2.0**-100, 1.1 * 2.0**-40, UE | PE)
    pc = sse_pc()
    pc.load(before(pc, operation, (ALL_MASKED | FZ) & ~(UE << 7)) + operation.code)
    pc.run()
    assert pc.vector == Vector.XM


def test_deviation_an_unmasked_underflow_is_met_where_the_result_is_inexact_alone() -> None:
    """The manual: while it is unmasked, a tiny result is an underflow even if it is exact (§4.9.1.5)."""
    operation = Operation("tiny * tiny", "f3 0f 59 46 04 ; mulss", 2.0**-100, 2.0**-40, UE)
    pc = sse_pc()
    pc.load(before(pc, operation, ALL_MASKED & ~(UE << 7)) + operation.code + "\nf4 ; hlt")
    pc.run()
    assert floating(pc).mxcsr & 0x3F == 0


def test_deviation_denormal_operands_are_not_noticed() -> None:
    """The manual: DE."""
    operation = Operation("denormal + 1", "f3 0f 58 46 04 ; addss", 1, 1.0, DE | PE)
    pc = sse_pc()
    pc.load(before(pc, operation, 0) + operation.code)
    pc.run()
    assert pc.vector == Vector.XM
    assert floating(pc).mxcsr == PE


@pytest.mark.parametrize("bit", range(16, 32))
def test_reserved_bits_of_mxcsr_are_gp(bit: int) -> None:
    pc = sse_pc()
    pc.write(DATA, struct.pack("<I", ALL_MASKED | 1 << bit))
    pc.load("0f ae 16 ; ldmxcsr")
    pc.run()
    assert (pc.vector, pc.stack(2), pc.cpu.count) == (Vector.GP, [0, CODE], 0)
    assert floating(pc).mxcsr == ALL_MASKED


def test_fxrstor_takes_no_reserved_bits_and_loads_nothing_then() -> None:
    pc = sse_pc()
    pc.load("0f ae 06 ; fxsave\n0f ae 0e ; fxrstor")
    pc.step()
    pc.write(DATA + 160, b"\xff" * 16)
    pc.write32(DATA + 24, RESERVED | ALL_MASKED)
    pc.run()
    assert pc.vector == Vector.GP
    assert floating(pc).xmm(0) == 0
    assert pc.read(DATA + 28, 4) == 0xFFFF  # MXCSR_MASK


def test_fxrstor_unmasks_too() -> None:
    pc = sse_pc()
    pc.load("0f ae 06 ; fxsave\n0f ae 0e ; fxrstor\nf3 0f 5e c9 ; divss")  # 0 / 0
    pc.step()
    pc.write32(DATA + 24, ALL_MASKED & ~(IE << 7))
    pc.run()
    assert (pc.vector, pc.stack(1)) == (Vector.XM, [CODE + 6])


# ------------------------------------------------------------------------------------------------ x87

_LOAD = "db e3 ; raw fninit\nd9 6e 08 ; fldcw\nd9 06 ; fld\n"
X87 = (
    Operation("1 / 3", "d8 76 04 ; fdiv", 1.0, 3.0, PE),
    Operation("1 / 0", "d8 76 04 ; fdiv", 1.0, 0.0, ZE),
    Operation("infinity - infinity", "d8 66 04 ; fsub", 0x7F80_0000, 0x7F80_0000, IE),
    Operation("1 - 1", "d8 66 04 ; fsub", 1.0, 1.0, 0),
    Operation("signalling + 1", "d8 46 04 ; fadd", 1.0, SIGNALLING, IE),
    Operation("sqrt(-1)", "d9 fa ; fsqrt", -1.0, 0.0, IE),
    Operation("compare 1, quiet", "d8 56 04 ; fcom", 1.0, QUIET, IE),
    Operation("compare unordered, quiet", "d9 46 04 ; fld\nda e9 ; fucompp", 1.0, QUIET, 0),
)


def x87_pc(operation: Operation, control: int, code: str) -> Pc:
    pc = flat_pc()
    pc.state.set_control_register(0, pc.state.cr0 | int(Cr0.NE))
    pc.state[ESI] = DATA
    pc.write(DATA, struct.pack("<IIH", bits(operation.first), bits(operation.second), control))
    pc.load(_LOAD + operation.code + "\n" + code)
    return pc


@pytest.mark.parametrize("operation", X87, ids=lambda operation: operation.name)
def test_masked_x87_exceptions_set_their_flags(operation: Operation) -> None:
    pc = x87_pc(operation, 0x37F, "df e0 ; fnstsw\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] & 0xBF == operation.flags


def test_deviation_zero_by_zero_is_a_division_by_zero_too() -> None:
    """The manual: an invalid operation (§8.5.1.2); the engine sets ZE whatever the dividend is."""
    pc = x87_pc(Operation("0 / 0", "d8 76 04 ; fdiv", 0.0, 0.0, IE), 0x37F, "df e0 ; fnstsw\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] & 0x3F == IE | ZE


def test_deviation_stack_faults_are_not_noticed() -> None:
    """The manual: FLD to a register in use is #IS, with SF and C1 (§8.5.1.1)."""
    pc = flat_pc()
    pc.load("d9 ee ; fldz\n" * 9 + "df e0 ; fnstsw\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] & 0x41 == 0


@pytest.mark.parametrize("operation", X87, ids=lambda operation: operation.name)
@pytest.mark.parametrize("waiting", ["9b ; wait", "d9 e8 ; fld1", "d8 c0 ; fadd", "d9 6e 08 ; fldcw"])
def test_unmasked_ones_are_mf_with_the_next_instruction_that_waits(operation: Operation, waiting: str) -> None:
    pc = x87_pc(operation, 0x340, f"90 ; nop\ndf e0 ; fnstsw\n{waiting}\nf4 ; hlt")
    pc.run()
    length = len(bytes.fromhex(operation.code.replace("\n", " ").split(";")[0])) if "\n" not in operation.code else 5
    if operation.flags:
        assert (pc.vector, pc.stack(1)) == (Vector.MF, [CODE + 7 + length + 3])
        assert pc.state[EAX] & 0x80BF == operation.flags | 0x8080
    else:
        assert not any(isinstance(event, ExceptionRaised) for event in pc.events)


@pytest.mark.parametrize("operation", [o for o in X87 if o.flags & (IE | ZE)], ids=lambda operation: operation.name)
def test_what_is_found_before_computing_leaves_the_stack_as_it_was(operation: Operation) -> None:
    """§8.5.1, §8.5.3: the operands stay, no result is stored, condition codes are not set."""
    pc = x87_pc(operation, 0x340, "")
    pc.step(3)
    stack = floating(pc)
    pc.step()
    after = floating(pc)
    assert [after.stack(i) for i in range(8)] == [stack.stack(i) for i in range(8)]
    assert after.tag_word == stack.tag_word
    assert after.status_word == stack.status_word | operation.flags | 0x8080
    assert pc.cpu.count == 4  # it is retired: the exception is the next one's


def test_a_store_that_does_not_fit_stores_nothing() -> None:
    pc = x87_pc(X87[3], 0x340, "")
    pc.load("db e3 ; raw fninit\nd9 6e 08 ; fldcw\nd9 06 ; fld\ndb 5e 04 ; fistp\nf4 ; hlt")
    pc.write(DATA, struct.pack("<II", bits(LARGE), 0x1234_5678))
    pc.step(4)
    if floating(pc).status_word & IE:
        assert pc.read(DATA + 4, 4) == 0x1234_5678
        assert floating(pc).status_word >> 11 & 7 == 7


@pytest.mark.parametrize(
    "mmx",
    [
        "0f 77 ; emms", "0f fc c1 ; paddb mm0, mm1", "0f 6f c1 ; movq mm0, mm1", "0f 38 1c c1 ; pabsb mm0, mm1",
        "0f 3a 0f c1 01 ; palignr mm0, mm1, 1", "0f 2d c1 ; cvtps2pi mm0, xmm1", "66 0f 2a c1 ; cvtpi2pd xmm0, mm1",
        "0f c4 c0 01 ; pinsrw mm0, eax, 1", "0f d7 c1 ; pmovmskb eax, mm1",
    ],
)  # fmt: skip
def test_mmx_instructions_report_it_too(mmx: str) -> None:
    """Vol. 3A §6.15, #MF; instructions of SSE registers do not."""
    pc = x87_pc(X87[1], 0x340, mmx)
    pc.state.set_control_register(4, _OSFXSR | _OSXMMEXCPT)
    pc.state.refresh()
    pc.run()
    assert (pc.vector, pc.stack(1)) == (Vector.MF, [CODE + 10])
    for sse in ("66 0f fc c1 ; paddb xmm0, xmm1", "0f 28 c1 ; movaps xmm0, xmm1", "f3 0f 2a c0 ; cvtsi2ss xmm0, eax"):
        pc = x87_pc(X87[1], 0x340, sse + "\nf4 ; hlt")
        pc.state.set_control_register(4, _OSFXSR | _OSXMMEXCPT)
        pc.state.refresh()
        pc.run()
        assert not any(isinstance(event, ExceptionRaised) for event in pc.events)


def test_nm_comes_before_mf() -> None:
    pc = x87_pc(X87[1], 0x340, "d9 e8 ; fld1")
    pc.step(4)
    pc.state.set_control_register(0, pc.state.cr0 | int(Cr0.TS))
    pc.state.refresh()
    pc.engine.flush_tlb()
    pc.run()
    assert pc.vector == Vector.NM


@pytest.mark.parametrize("clearing", ["db e2 ; raw fnclex", "db e3 ; raw fninit", "dd 76 20 ; fnsave"])
def test_flags_are_cleared_and_nothing_is_left_to_report(clearing: str) -> None:
    pc = x87_pc(X87[1], 0x340, f"{clearing}\n9b ; wait\nd9 e8 ; fld1\ndf e0 ; fnstsw\nf4 ; hlt")
    pc.run()
    assert not any(isinstance(event, ExceptionRaised) for event in pc.events)
    assert pc.state[EAX] & 0xFF == 0


def test_unmasking_a_flag_that_is_set_makes_it_pending() -> None:
    """FLDCW: ES follows flags and masks (§8.1.3)."""
    pc = x87_pc(X87[1], 0x37F, "66 c7 46 08 40 03 ; mov word ptr [esi+8], 0x340\nd9 6e 08 ; fldcw\nd9 e8 ; fld1")
    pc.run()
    assert (pc.vector, pc.stack(1)) == (Vector.MF, [CODE + 7 + 3 + 9])


@pytest.mark.parametrize(
    ("address", "registers"),
    [
        ("d9 2d 08 00 04 00 ; fldcw", {}),
        ("d9 2c 06 ; fldcw", {EAX: 8}),
        ("d9 6c 46 02 ; fldcw", {EAX: 3}),
        ("d9 ae 08 00 00 00 ; fldcw", {}),
        ("d9 2c 45 08 00 04 00 ; fldcw", {EAX: 0}),
        ("3e d9 6e 08 ; fldcw", {}),
        ("67 d9 2c ; fldcw", {}),
    ],
)
@pytest.mark.parametrize("control", [0x37F, 0x340])
def test_fldcw_by_any_address_finds_whether_it_unmasks(address: str, registers: dict[int, int], control: int) -> None:
    """native/special.c looks at the operand itself."""
    pc = flat_pc()
    pc.state.set_control_register(0, pc.state.cr0 | int(Cr0.NE))
    pc.state[ESI] = DATA if not address.startswith("67") else 0x4000
    for register, value in registers.items():
        pc.state[register] = value
    for at in (DATA, 0x4000 - 8):
        pc.write(at + 8, struct.pack("<H", control))
    pc.load(f"d9 ee ; fldz\nd9 ee ; fldz\n{address}\nde f9 ; fdivp\nd9 e8 ; fld1\nf4 ; hlt")
    pc.run()
    assert any(isinstance(event, ExceptionRaised) for event in pc.events) is (control == 0x340)


# ------------------------------------------------------------------------------------------------ exactness


def _program(random: Random) -> str:
    pieces = [
        "d9 06 ; fld", "d8 76 04 ; fdiv", "d8 4e 04 ; fmul", "d9 fa ; fsqrt", "df e0 ; fnstsw", "d9 5e 20 ; fstp",
        "db e2 ; raw", "f3 0f 10 06 ; movss", "f3 0f 5e 46 04 ; divss", "f3 0f 59 c0 ; mulss", "0f ae 5e 0c ; stmxcsr",
        "f3 0f 53 46 04 ; rcpss", "40 ; inc eax", "d9 7e 24 ; fnstcw", "0f ae 46 40 ; fxsave", "9b ; wait",
        "d9 6e 08 ; fldcw", "0f ae 56 10 ; ldmxcsr",
    ]  # fmt: skip
    return "\n".join(random.choice(pieces) for _ in range(60))


@pytest.mark.parametrize("unmasked", [False, True], ids=["masked", "unmasked"])
@pytest.mark.parametrize("seed", range(6))
def test_flags_do_not_depend_on_where_a_run_stops(seed: int, unmasked: bool) -> None:
    """The engine accumulates them, and they go to the status words at different moments: nobody sees it."""
    random = Random(seed)
    program = _program(random)
    data = struct.pack("<ffHHIf", random.choice((1.0, 1e30, 1e-30)), random.choice((3.0, 0.0, 1e-30)),
                       0x340 if unmasked else 0x37F, 0, 0, 0)  # fmt: skip
    pcs = []
    for _ in range(2):
        pc = sse_pc()
        pc.state.set_control_register(0, pc.state.cr0 | int(Cr0.NE))
        pc.write(DATA, data + struct.pack("<I", 0 if unmasked else ALL_MASKED)[:4])
        pc.write(DATA + 16, struct.pack("<I", 0 if unmasked else ALL_MASKED))
        pc.load(program + "\nf4 ; hlt")
        pcs.append(pc)
    whole, stepped = pcs
    whole.run()
    while stepped.cpu.count < whole.cpu.count:
        stepped.step()
    stepped.run()
    assert ArchitecturalState.of(stepped.state).differences(ArchitecturalState.of(whole.state)) == []
    assert bytes(stepped.memory[DATA : DATA + 0x300]) == bytes(whole.memory[DATA : DATA + 0x300])


def test_snapshots_and_worlds_know_what_is_unmasked() -> None:
    pc = sse_pc()
    pc.write32(DATA, 0)
    pc.load("0f ae 16 ; ldmxcsr\nf3 0f 5e c9 ; divss")
    pc.step()
    image, world = pc.engine.save_image(), pc.engine.save_world()
    pc.engine.power_on()
    assert not pc.state.simd_unmasked
    pc.engine.load_world(world)
    pc.cpu.count = 1
    assert pc.event() == ExceptionRaised(Vector.XM)
    other = sse_pc()
    other.write(CODE, bytes(pc.memory[CODE : CODE + 16]))
    other.engine.restore_image(image)
    assert other.event() == ExceptionRaised(Vector.XM)
    assert other.state.rsp == STACK
