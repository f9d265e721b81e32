"""One batch of cases on both machines, their logs side by side, and what to think of each difference."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from simvirt.x86.decode import disassemble
from tests.differential import layout, machines
from tests.differential.batch import Batch
from tests.differential.generator import KINDS, Generator
from tests.differential.layout import CASES, FLOATING_POINT, LOG, MASTERS, RECORD_SIZE, Bench, Mode
from tests.differential.reasons import Reason, Verdict, judge
from tests.differential.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.differential.coverage import Coverage

RECORD: Final = np.dtype(
    {
        "names": [
            "general",
            "rip",
            "cs",
            "rflags",
            "ss",
            "segments",
            "vector",
            "error",
            "cr2",
            "sum",
            "case",
            "step",
            "fx",
        ],
        "formats": ["<16u8", "<u8", "<u8", "<u8", "<u8", "<4u2", "<u4", "<u4", "<u8", "<u4", "<u4", "<u4", "512u1"],
        "offsets": [0, 0x80, 0x88, 0x90, 0xA0, 0xA8, 0xB0, 0xB4, 0xB8, 0xC0, 0xC4, 0xC8, 0x100],
        "itemsize": RECORD_SIZE,
    }
)
_FX_IGNORED: Final = (
    *range(6, 24),
    *(32 + 16 * number + byte for number in range(8) for byte in range(10, 16)),
    *range(0x1A0, 0x200),
)
"""Of an FXSAVE image: FOP, FIP, FCS, FDP, FDS (docs/deviations.md) and what is reserved."""
_FX_OF_64_BIT_MODE: Final = range(160 + 16 * 8, 160 + 16 * 16)
"""XMM8 to XMM15, which FXSAVE leaves as they were outside of 64-bit mode."""
_DB, _PF = 1, 14


def make_batch(bench: Bench, mode: Mode, seed: int, count: int | None = None) -> Batch:
    """A batch of random cases, as many as there is room for or `count`."""
    generator = Generator(seed, mode)
    random = generator.random
    kinds = [kind for kind, weight in KINDS[mode] for _ in range(weight)]
    # All cases of one batch share the sandbox: it is either in low memory or in high memory.
    kind = random.choice(kinds).value
    batch_kinds = [k.value for k in kinds if k.value.low == kind.low]
    count = min(count or 1 << 20, layout.MOST_CASES[kind.low])
    cases = [generator.case(number, random.choice(batch_kinds)) for number in range(count)]
    cr4 = random.choice((0, 0, 0x800)) | random.choice((0, 0x4)) if mode is not Mode.REAL else 0
    if mode is Mode.LONG:
        cr4 |= random.choice((0, 0x10000))
    memory = bench.memory(mode, kind.sandbox, count, cr4=cr4)
    code = min(case.address for case in cases)
    memory[code] = b"".join(case.code for case in cases)
    memory[CASES] = b"".join(case.record for case in cases)
    memory[MASTERS] = generator.masters(kind.sandbox)
    memory[FLOATING_POINT] = generator.floating_point()
    return Batch(mode, seed, cases, memory, bench.entry)


def log_of(batch: Batch, memory: bytes) -> bytes:
    """The records that a run has left."""
    end = int.from_bytes(memory[batch.parameters + 0xC : batch.parameters + 0x10], "little")
    start = LOG if batch.mode is Mode.REAL else layout.LOG_LINEAR
    return memory[LOG : LOG + end - start]


@dataclass(slots=True)
class Trail:
    """What a batch has left on one machine.

    :ivar starts: records with which the log in the machine's memory began again.
    :ivar stuck: cases in which the machine came to a halt or was lost, and how; it was started again behind them.
    """

    log: np.ndarray
    starts: list[int]
    stuck: dict[int, str]

    @classmethod
    def of(cls, batch: Batch, run: Callable[[dict[int, bytes]], tuple[bytes, str]]) -> Trail:
        """Run the batch, as often as it takes to come to its end."""
        log = bytearray()
        starts: list[int] = []
        stuck: dict[int, str] = {}
        case = 0
        while case < len(batch.cases):
            memory, ended = run(batch.from_case(case))
            starts.append(len(log) // RECORD_SIZE)
            log += log_of(batch, memory)
            if ended in machines.FINISHED:
                break
            reached = batch.case_in(memory)
            if reached < case:
                raise RuntimeError(f"the bench does not come to case {case}: {ended}")
            stuck[reached] = ended
            case = reached + 1
        return cls(np.frombuffer(log, dtype=RECORD), starts, stuck)


@dataclass(frozen=True, slots=True)
class Difference:
    """One step that two machines did otherwise."""

    flavour: str
    instruction: str
    code: str
    fields: tuple[str, ...]
    detail: str
    seed: int
    case: int
    step: int


@dataclass(slots=True)
class Result:
    """What a batch has shown."""

    steps: int = 0
    faults: Counter[int] = field(default_factory=Counter)
    explained: Counter[Reason] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    stuck: tuple[dict[int, str], dict[int, str]] = ({}, {})
    """The cases that one of the machines did not come out of; where that has no reason, it is a difference."""


def compare(batch: Batch, here: Trail, there: Trail) -> Result:
    """Compare two logs step by step."""
    ours, theirs = here.log, there.log
    for log in (ours, theirs):
        log["fx"][:, _FX_IGNORED] = 0
        if batch.mode is not Mode.LONG:
            log["general"][:, 8:] = 0  # never written
            log["fx"][:, _FX_OF_64_BIT_MODE] = 0
        log["cr2"][log["vector"] != _PF] = 0  # not written then; a case of ring 0 may have
    common, rows_a, rows_b = np.intersect1d(_keys(ours), _keys(theirs), assume_unique=True, return_indices=True)
    a, b = ours[rows_a], theirs[rows_b]
    result = Result(len(common), Counter(a["vector"].tolist()), stuck=(here.stuck, there.stuck))
    finished: set[int] = set()
    spoilt: tuple[set[int], set[int]] | None = None
    raw_a, raw_b = (log.view(np.uint8).reshape(len(common), RECORD_SIZE) for log in (a, b))
    for row in np.flatnonzero((raw_a != raw_b).any(axis=1)).tolist():
        case = int(a[row]["case"])
        if case in finished:
            continue
        step = Step(batch, ours, int(rows_a[row]), theirs[int(rows_b[row])])
        verdict = judge(step)
        if verdict is None and spoilt is None:
            spoilt = _overwritten(batch, here), _overwritten(batch, there)
        if verdict is None and spoilt and (int(rows_a[row]) in spoilt[0] or int(rows_b[row]) in spoilt[1]):
            verdict = Verdict(Reason.BY_CHANCE, ends_case=True)
        if verdict is None:
            result.differences.append(_difference(step))
            finished.add(case)
        else:
            result.explained[verdict.reason] += 1
            if verdict.ends_case:
                finished.add(case)
    missing = set(np.setxor1d(ours["case"], theirs["case"]).tolist())
    lonely = (
        set(np.setxor1d(_keys(ours), _keys(theirs)) // _STEP_FACTOR) | missing | here.stuck.keys() ^ there.stuck.keys()
    )
    for case in sorted(int(each) for each in lonely - finished):
        result.differences.append(Difference("", "", "", ("steps",), "one machine only", batch.seed, case, 0))
    return result


def _overwritten(batch: Batch, trail: Trail) -> set[int]:
    """The records into which a case of ring 0 has written afterwards."""
    found: set[int] = set()
    if batch.mode is Mode.REAL:
        return found
    log = trail.log
    kernel = np.array([case.flavour.ring == 0 for case in batch.cases])
    for row in np.flatnonzero(kernel[log["case"]] & (log["vector"] == _DB)).tolist():
        start = trail.starts[bisect(trail.starts, row) - 1]
        for access in Step(batch, log, row, log[row]).accesses:
            if access.writes and access.meets(*layout.LOG_RANGE):
                first, end = access.first - layout.LOG_LINEAR, access.end - layout.LOG_LINEAR
                found.update(range(start + max(first, 0) // RECORD_SIZE, min(start - (-end // RECORD_SIZE), row)))
    return found


_STEP_FACTOR: Final = 64


def _keys(log: np.ndarray) -> np.ndarray:
    keys: np.ndarray = log["case"].astype(np.int64) * _STEP_FACTOR + log["step"]
    return keys


def _difference(step: Step) -> Difference:
    details = []
    for name in sorted(step.fields):
        x, y = step.ours[name], step.theirs[name]
        if x.ndim:
            places = np.flatnonzero(x != y).tolist()
            values = [(hex(int(x[p])), hex(int(y[p]))) for p in places[:4]]
            details.append(f"{name}{places[:8]}: {values}")
        else:
            details.append(f"{name}: {int(x):#x} {int(y):#x}")
    text = disassemble(step.code, step.ip, step.case.flavour.bits)
    detail = f"v{int(step.ours['vector'])} " + "; ".join(details)
    number, index = int(step.ours["case"]), int(step.ours["step"])
    return Difference(
        step.case.flavour.name,
        text,
        step.code.hex(),
        tuple(sorted(step.fields)),
        detail,
        step.batch.seed,
        number,
        index,
    )


def run_batch(bench: Bench, mode: Mode, seed: int, folder: Path, count: int | None = None) -> Result:
    """Make a batch, run it on both machines, compare."""
    return run(make_batch(bench, mode, seed, count), folder)


def run(batch: Batch, folder: Path, coverage: Coverage | None = None) -> Result:
    """Run a batch on both machines, compare; count what it has executed, if that is asked for."""
    here = Trail.of(batch, lambda memory: machines.run_here(memory, batch.entry))
    there = Trail.of(batch, lambda memory: machines.run_qemu(memory, batch.entry, folder))
    if coverage is not None:
        coverage.add(batch, here.log)
    return compare(batch, here, there)
