"""The engine's self-test: does it do here what the rest of simvirt was built on?

The engine reaches into Unicorn's own structures by their offsets, and relies on behaviour that no interface promises:
that an intercepted instruction has had no effect, that a block can be cut to an exact length, where the address of a
refused access is kept. All of it was found by experiment on one version and one platform (`machine.platforms`). The
self-test makes the experiments again, on an engine of its own: what known registers look like through Unicorn's public
interface and in our view, one exit of each family, exact stops. It takes some 10 ms; the first CPU of a process
runs it (`verify`), and `simvirt doctor` shows it (`run`).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final, NamedTuple

from simvirt.errors import EngineError
from simvirt.machine.fills import Refusal
from simvirt.machine.native.layout import NativeEvent
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.flags import Cr0, Cr4, Eflags
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.engine import Engine

MEMORY: Final = 64 << 10
_CODE, _DATA, _DIRECTORY, _STACK = 0x1000, 0x4000, 0x5000, 0x7000
_UNMAPPED: Final = 0x00C0_1234
"""A linear address in a directory entry that is not present."""
_NO_MEMORY: Final = 0x0030_1238
"""A linear address that is mapped, to a physical one where there is no memory."""
_SELECTOR: Final = 0x1238
"""Of no descriptor: loading it is #GP with this error code."""
_LARGE_PAGE: Final = 0x83
_ACCESSED: Final = 0x20
_HLT: Final = b"\xf4"
_NEVER_RESIZE: Final = 1 << 62
_ALL_ONES: Final = (1 << 64) - 1
_FLAT_CODE, _FLAT_DATA = 0x00CF_9B00, 0x00CF_9300


class CheckResult(NamedTuple):
    """One thing that was checked."""

    name: str
    ok: bool
    detail: str
    """What was found."""


class _Refuted(Exception):  # noqa: N818 - a result, not an error
    """An experiment gave something else than was relied on; the text says what."""


class _Bench:
    """An engine in flat 32-bit protected mode and ring 0, and short programs on it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.state = engine.state
        state = self.state
        for register in SegmentRegister:
            state.set_segment(register, Segment(8 * (register + 1), 0, 0xFFFF_FFFF, _FLAT_DATA))
        state.set_segment(SegmentRegister.CS, Segment(8, 0, 0xFFFF_FFFF, _FLAT_CODE))
        state.set_control_register(0, int(Cr0.PE | Cr0.ET))
        state.refresh(cpl=0)
        self._next = _CODE

    def start(self, code: str, eflags: int = 0) -> int:
        """Put a program, with HLT behind it, where none has been, and the instruction pointer on it; its address."""
        data = bytes.fromhex(code) + _HLT
        at, self._next = self._next, self._next + 0x40
        self.engine.memory.view[at : at + len(data)] = data
        self.state.rip, self.state.rsp, self.state.eflags = at, _STACK, eflags | 2
        return at

    def run(self, instructions: int = 64, *, window: bool = False) -> NativeEvent:
        """Run, up to an exact number of instructions from now."""
        return self.engine.run(self.engine.count + instructions, window=window)


_verified = False
"""Has the engine of this process passed?"""


def run() -> tuple[CheckResult, ...]:
    """Make all the experiments.

    One that fails does not keep the others from being made, but nothing runs on an engine whose parts are not where
    they should be: that would write into foreign memory.
    """
    from simvirt.machine.engine import Engine
    from simvirt.machine.memory import HostMemory

    bench = _Bench(Engine(HostMemory(MEMORY)))
    results = []
    for name, experiment in _EXPERIMENTS:
        try:
            results.append(CheckResult(name, True, experiment(bench)))
        except _Refuted as refuted:
            results.append(CheckResult(name, False, str(refuted)))
            if experiment in _BEFORE_RUNNING:
                break
    return tuple(results)


def verify() -> None:
    """Once in a process, refuse to go on where the engine does not do what simvirt relies on.

    :raises EngineError: an experiment failed; the message names it.
    """
    global _verified  # noqa: PLW0603 - the engine of a process is tested once
    if _verified:
        return
    failed = [result for result in run() if not result.ok]
    if failed:
        found = "; ".join(f"{result.name}: {result.detail}" for result in failed)
        raise EngineError(
            f"the self-test of simvirt's engine failed on this computer ({found}). What it runs could not be trusted, "
            f"so it refuses: install the exact dependencies again (pip install --force-reinstall simvirt), and if that "
            f"does not help, report this message with your operating system and processor."
        )
    _verified = True


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise _Refuted(f"{what} is {_show(found)} where {_show(expected)} was expected")


def _show(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(_show(element) for element in value)})"
    return hex(value) if type(value) is int and value > 9 else str(value)


# ------------------------------------------------------------------------------------------------ where things are


def _registers(bench: _Bench) -> str:
    """Values that our view writes, read through Unicorn's public interface."""
    state, engine = bench.state, bench.engine
    values: dict[str, int | tuple[int, ...]] = {}
    for register in GeneralRegister:
        values[register.name] = state[register] = 0x1111_0000_0000_0000 * (register % 15) + 0x4321 + register
    state.rip = values["RIP"] = 0x1234_5678_9ABC
    state.eflags = values["EFLAGS"] = int(Eflags.CF | Eflags.SF | Eflags.OF | Eflags.DF | Eflags.IOPL | Eflags.ID) | 2
    for number, value in ((2, 0xDEAD_BEE0), (3, 0x5000)):
        state.set_control_register(number, value)
        values[f"CR{number}"] = value
    values["CR0"], values["CR4"] = state.cr0, state.cr4
    for number in (0, 1, 2, 3, 6, 7):
        state.set_debug_register(number, 0xFFFF_0FF0 if number == 6 else 0x400 + number)
        values[f"DR{number}"] = state.debug_register(number)
    bench.engine.note_debug_registers()  # nothing is armed by them
    for segment_register in SegmentRegister:
        values[segment_register.name] = state.selector(segment_register)
    state.gdtr, state.idtr = DescriptorTable(0x12_3450, 0x77), DescriptorTable(0x65_4320, 0x7FF)
    values["GDTR"], values["IDTR"] = (0, 0x12_3450, 0x77, 0), (0, 0x65_4320, 0x7FF, 0)
    state.ldtr = Segment(0x48, 0x77_0000, 0x3F, 0x8200)
    values["LDTR"] = (0x48, 0x77_0000, 0x3F, 0x8200)
    tr = state.tr
    values["TR"] = (tr.selector, tr.base, tr.limit, tr.flags)
    for name, expected in values.items():
        _expect(name, engine.public_register(name), expected)
    state.ldtr = Segment(0, 0, 0, 0)
    state.set_control_register(3, 0)
    engine.write_public_register("XMM0", 0x1122_3344_5566_7788_99AA_BBCC_DDEE_F00F)
    if (0x1122_3344_5566_7788_99AA_BBCC_DDEE_F00F).to_bytes(16, "little") not in state.floating_point:
        raise _Refuted("XMM0 is not in the floating-point part of the state")
    return f"{len(values) + 1} registers lie where they should"


def _tlb(bench: _Bench) -> str:
    """Beside the time that a fill writes over, the engine's software TLB keeps marks that a flush sets to ones."""
    bench.engine.flush_tlb()
    places = [bench.engine.state_address - distance for distance in bench.engine.platform.tlb_windows]
    for place in places:
        marks = [ctypes.c_uint64.from_address(place - back).value for back in (8, 16)]
        _expect("a mark of the TLB", marks, [_ALL_ONES, _ALL_ONES])
    bench.start("")
    bench.run()
    for place in places:
        _expect("the TLB's window", ctypes.c_int64.from_address(place).value, _NEVER_RESIZE)
    return "the engine does not resize its TLB by the host's clock"


# ------------------------------------------------------------------------------------------------ exits


def _svm_exits(bench: _Bench) -> str:
    """One instruction of each family that is intercepted: the exit's code, and an instruction pointer on it."""
    from simvirt.machine.svm import Intercepts, SvmExit

    engine, state = bench.engine, bench.state
    wanted = frozenset({SvmExit.GDTR_READ, SvmExit.PAUSE, SvmExit.PUSHF})
    families = (
        ("0f0b", SvmExit.EXCEPTION + 6), ("f7f1", SvmExit.EXCEPTION), ("cd80", SvmExit.SWINT), ("cc", SvmExit.SWINT),
        ("f4", SvmExit.HLT), ("0fa2", SvmExit.CPUID), ("0f31", SvmExit.RDTSC), ("0f33", SvmExit.RDPMC),
        ("0f32", SvmExit.MSR), ("0f30", SvmExit.MSR), ("0f22c0", SvmExit.CR_WRITE), ("0f06", SvmExit.CR_WRITE),
        ("0f20d8", SvmExit.CR_READ + 3), ("0f23f8", SvmExit.DR_WRITE + 7), ("0f0138", SvmExit.INVLPG),
        ("0f00d8", SvmExit.TR_WRITE), ("0f0100", SvmExit.GDTR_READ), ("0f09", SvmExit.WBINVD), ("f390", SvmExit.PAUSE),
        ("9c", SvmExit.PUSHF),
    )  # fmt: skip
    before = engine.intercepts
    engine.intercept(Intercepts(wanted, cr_reads=1 << 3))
    try:
        for code, expected in families:
            at = bench.start("90" + code)
            state[GeneralRegister.RAX] = state[GeneralRegister.RCX] = 0
            start = engine.count
            _expect(f"the event of {code}", bench.run(), NativeEvent.SVM_EXIT)
            _expect(f"the exit of {code}", engine.svm_exit, int(expected))
            found = state.rip, engine.count - start, engine.instruction_length
            _expect(f"address, count and length of {code}", found, (at + 1, 1, len(code) // 2))
    finally:
        engine.intercept(before)
    return f"{len(families)} instructions stopped before their effect"


def _error_code(bench: _Bench) -> str:
    from simvirt.machine.svm import SvmExit

    at = bench.start("66b8" + _SELECTOR.to_bytes(2, "little").hex() + "8ed8")
    bench.run()
    _expect("the exit of a bad selector", bench.engine.svm_exit, SvmExit.EXCEPTION + 13)
    _expect("its error code", bench.state.error_code, _SELECTOR)
    _expect("its address", bench.state.rip, at + 4)
    return f"#GP({_SELECTOR:#x}) for a selector of no descriptor"


def _ports(bench: _Bench) -> str:
    engine, state = bench.engine, bench.state
    for code, expected in (
        ("e460", (0x60, 1, False, 0)),
        ("66ef", (0x3F8, 2, True, 0x5678)),
        ("6f", (0x3F8, 4, True, 0)),
    ):
        at = bench.start("90" + code)
        state[GeneralRegister.RAX], state[GeneralRegister.RDX], state[GeneralRegister.RSI] = 0x1234_5678, 0x3F8, _DATA
        _expect(f"the event of {code}", bench.run(), NativeEvent.IO)
        _expect(f"the access of {code}", engine.io[:4], expected)
        found = state.rip, state[GeneralRegister.RAX], state[GeneralRegister.RSI]
        _expect(f"address and registers of {code}", found, (at + 1, 0x1234_5678, _DATA))
        _expect("DR7", state.debug_register(7) & 0xFF, 7)
    return "IN, OUT and OUTS stopped before their effect"


def _system_calls(bench: _Bench) -> str:
    for code in ("0f34", "0f05"):
        at = bench.start("90" + code)
        _expect(f"the event of {code}", bench.run(), NativeEvent.SYSTEM_CALL)
        found = bench.state.rip, bench.engine.system_call_is_sysenter
        _expect(f"address and kind of {code}", found, (at + 1, code == "0f34"))
    return "SYSENTER and SYSCALL stopped before their effect"


def _window(bench: _Bench) -> str:
    """An interrupt window opens behind STI's shadow; without IF there is none."""
    from simvirt.machine.svm import SvmExit

    at = bench.start("fb9090")
    _expect("the event of STI", bench.run(window=True), NativeEvent.SVM_EXIT)
    _expect("its exit", bench.engine.svm_exit, int(SvmExit.VINTR))
    _expect("its address", bench.state.rip, at + 2)
    bench.start("9090")
    bench.run(window=True)
    _expect("the exit without IF", bench.engine.svm_exit, int(SvmExit.HLT))
    return "interrupts can be taken exactly when the guest can take them"


def _single_step(bench: _Bench) -> str:
    from simvirt.machine.svm import SvmExit

    at = bench.start("40404040", int(Eflags.TF))
    start = bench.engine.count
    bench.run()
    found = bench.engine.svm_exit, bench.state.rip, bench.engine.count - start
    _expect("exit, address and count of a single step", found, (SvmExit.EXCEPTION + 1, at + 1, 1))
    return "the trap flag traps behind one instruction"


# ------------------------------------------------------------------------------------------------ memory


def _refused_fills(bench: _Bench) -> str:
    """With paging on: the address of a refused access, to the byte."""
    engine, state = bench.engine, bench.state
    memory = engine.memory.view
    memory[_DIRECTORY : _DIRECTORY + 4] = _LARGE_PAGE.to_bytes(4, "little")
    state.set_control_register(3, _DIRECTORY)
    state.set_control_register(4, int(Cr4.PSE))
    state.set_control_register(0, int(Cr0.PE | Cr0.ET | Cr0.PG))
    state.refresh()
    engine.flush_tlb()
    try:
        for address, refusal in ((_UNMAPPED, Refusal.PAGE_FAULT), (_NO_MEMORY, Refusal.HOLE)):
            for opcode, is_write in (("a1", False), ("a3", True)):
                at = bench.start("90" + opcode + address.to_bytes(4, "little").hex())
                _expect("the event of a refused access", bench.run(), NativeEvent.REFUSED_FILL)
                verdict = engine.verdict
                _expect("its verdict", (verdict.refusal, verdict.gva), (refusal, address))
                _expect("its direction", verdict.access.name, "WRITE" if is_write else "READ")
                _expect("its instruction", (state.rip, engine.instruction_length), (at + 1, 5))
                if refusal is Refusal.PAGE_FAULT:
                    _expect("its error code", verdict.error_code, 2 * is_write)
    finally:
        state.set_control_register(0, int(Cr0.PE | Cr0.ET))
        state.refresh()
        engine.flush_tlb()
    _expect("the accessed flag", memory[_DIRECTORY] & _ACCESSED, _ACCESSED)
    return "refused accesses are reported to the byte"


def _modified_code(bench: _Bench) -> str:
    """An instruction that overwrites the next one, in the same block; then one that is overwritten from outside."""
    at = bench.start("90")
    bench.start("c605" + (at + 0x40 + 8).to_bytes(4, "little").hex() + "07" + "b801000000")
    start = bench.engine.count
    bench.run()
    found = bench.state.register(GeneralRegister.RAX, 4), bench.engine.count - start
    _expect("what overwritten code did, and its count", found, (7, 2))
    at = bench.start("b803000000")
    for constant in (5, 6):
        bench.engine.memory.view[at + 1] = constant
        bench.engine.written(at + 1, 1)
        bench.state.rip = at
        bench.run()
        _expect("what code did that was written from outside", bench.state.register(GeneralRegister.RAX, 4), constant)
    return "overwritten code is not run, and counts"


# ------------------------------------------------------------------------------------------------ exactness


def _exact_stops(bench: _Bench) -> str:
    """A block of eight instructions and a loop, stopped at every instruction."""
    engine, state = bench.engine, bench.state
    for stop in (1, 3, 8, 9, 14):
        at = bench.start("4040404040404040" + "4975fd")
        state[GeneralRegister.RAX], state[GeneralRegister.RCX] = 0, 100
        start = engine.count
        _expect("the event of a limit", bench.run(stop), NativeEvent.LIMIT)
        loop = max(stop - 8, 0)
        rip = at + min(stop, 8) + loop % 2
        found = engine.count - start, state[GeneralRegister.RAX], state[GeneralRegister.RCX], state.rip
        _expect(
            f"count, registers and address at a limit of {stop}",
            found,
            (stop, min(stop, 8), 100 - (loop + 1) // 2, rip),
        )
    start = engine.count
    bench.run(1000)
    _expect("the count to the loop's end", engine.count - start, 8 + 2 * 100 - 14)
    return "runs stop at exact instructions, and every instruction counts once"


_BEFORE_RUNNING: Final = frozenset({_registers, _tlb})
_EXPERIMENTS: Final[tuple[tuple[str, Callable[[_Bench], str]], ...]] = (
    ("registers", _registers),
    ("translation cache", _tlb),
    ("exact stops", _exact_stops),
    ("intercepts", _svm_exits),
    ("error codes", _error_code),
    ("ports", _ports),
    ("system calls", _system_calls),
    ("interrupt window", _window),
    ("single step", _single_step),
    ("refused accesses", _refused_fills),
    ("modified code", _modified_code),
)
