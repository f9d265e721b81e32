"""What it takes to start: seconds until a first guest has run, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Figure, Section, Unit, at_least, at_most
from benchmarks.machines import BARE, VTX, WrongEndingError
from benchmarks.processes import spend
from benchmarks.timing import in_turns, tell

if TYPE_CHECKING:
    from benchmarks.plan import Plan

_ROOT: Final = Path(__file__).resolve().parent.parent
_IMPORT: Final = "import time; t = time.perf_counter(); import simvirt; print(time.perf_counter() - t)"
_IMPORT_AND_LOOK: Final = (
    "import time; t = time.perf_counter(); import simvirt; simvirt.run; simvirt.compare; print(time.perf_counter() - t)"
)
_FILL_MEMORY: Final = "bf00002000 b90000f800 b855555555 f3ab 31c0 e7f4"
"""mov edi, 2 MiB; mov ecx, 62 MiB / 4; mov eax, 0x55555555; rep stosd; xor eax, eax; out 0xf4, eax."""
_MEMORY: Final = """
import json, resource, sys
if {limit}:
    resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
import simvirt
from simvirt.guests.flat import flat_image
guest = flat_image(bytes.fromhex("{guest}"), "fill-memory")
run = simvirt.run(guest, "{strategy}", memory="64M")
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
kib = lambda name: int(status[name].split()[0])
print(json.dumps({{"outcome": run.outcome.value, "resident": kib("VmHWM"), "virtual": kib("VmPeak")}}))
"""
GIBIBYTE: Final = 1 << 30
_SPEED: Final = """
import simvirt
run = simvirt.run("{guest}", memory="{memory}")
print(run.measured.host_seconds)
"""
_SMALL, _LARGE = "64M", "3G"
"""A machine of the usual size and the largest that there is: its size must not tell on its speed."""
_BUSY_GUEST: Final = "bench-dhrystone"


def run(plan: Plan) -> Section:
    """Start processes and look at them."""
    tell("start-up")
    timings = in_turns(
        {
            "simvirt run hello": partial(_command, ["run", "hello"]),
            "simvirt run hello --strategy vtx": partial(_command, ["run", "hello", "--strategy", "vtx"]),
            "simvirt run tutor": partial(_command, ["run", "tutor"]),
            "simvirt run tutor --strategy vtx": partial(_command, ["run", "tutor", "--strategy", "vtx"]),
            "simvirt explain popf": partial(_command, ["explain", "popf"]),
            "simvirt --version": partial(_command, ["--version"]),
            "import simvirt": partial(_printed, _IMPORT),
            "import simvirt, with run and compare": partial(_printed, _IMPORT_AND_LOOK),
            "python -c pass, for comparison": lambda: spend([sys.executable, "-c", "pass"]).wall,
        },
        plan.processes,
    )
    second = at_most(1.0)
    targets = {"simvirt run hello": second, "simvirt explain popf": at_most(1.5), "import simvirt": at_most(0.3)}
    targets |= {"simvirt run tutor": second, "simvirt run tutor --strategy vtx": second}
    figures = [
        Figure("wall clock", name, timing.least, Unit.SECONDS, timing.median, targets.get(name))
        for name, timing in timings.items()
    ]
    sweep = _command(["analyze", plan.analyzed, "--no-cache", "--jobs", "2"])
    name = f"all of {plan.analyzed} analyzed, by two processes"
    figures.append(Figure("wall clock", name, sweep, Unit.SECONDS, target=at_most(60.0)))
    notes = [
        "Each in a process of its own; wall-clock seconds, the least of all rounds. Files are in the system's cache.",
        "Memory: a guest that writes to 62 of its 64 MiB.",
    ]
    figures += _speed_by_size(plan)
    if Path("/proc/self/status").exists():
        figures += _memory()
    else:
        notes.append("Memory is not measured: this system has no /proc.")
    return Section("start-up", "Start-up and memory", tuple(figures), tuple(notes))


def _command(arguments: list[str]) -> float:
    """Wall-clock seconds of simvirt's command, the one beside this Python if it is installed there."""
    script = Path(sys.executable).with_name("simvirt")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "simvirt"]
    spent = spend([*command, *arguments], cwd=str(_ROOT))
    if spent.status:
        raise WrongEndingError(f"simvirt {' '.join(arguments)} ended with the status {spent.status}")
    return spent.wall


def _printed(code: str) -> float:
    return float(_python(code))


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=_ROOT)
    if done.returncode:
        raise WrongEndingError(f"a measured process failed:\n{done.stderr}")
    return done.stdout


def _speed_by_size(plan: Plan) -> list[Figure]:
    guest = _BUSY_GUEST if _BUSY_GUEST in plan.guests else plan.guests[0]
    timings = in_turns(
        {size: partial(_printed, _SPEED.format(guest=guest, memory=size)) for size in (_SMALL, _LARGE)}, plan.rounds
    )
    ratio, middle = timings[_LARGE].times_as_fast_as(timings[_SMALL])
    quantity = f"speed of {guest} with {_LARGE} of memory / with {_SMALL}"
    return [Figure(BARE, quantity, ratio, Unit.RATIO, middle, at_least(0.9))]


def _memory() -> list[Figure]:
    figures = []
    for strategy in (BARE, VTX):
        found = json.loads(_python(_MEMORY.format(limit=0, guest=_FILL_MEMORY, strategy=strategy)))
        resident, virtual = found["resident"] / 1024, found["virtual"] / 1024
        figures.append(Figure(strategy, "resident memory at most", resident, Unit.MEBIBYTES, None, at_most(250)))
        figures.append(Figure(strategy, "address space at most", virtual, Unit.MEBIBYTES, None, at_most(1024)))
        try:
            limited = json.loads(_python(_MEMORY.format(limit=GIBIBYTE, guest=_FILL_MEMORY, strategy=strategy)))
            ran = limited["outcome"] == "finished"
        except WrongEndingError:
            ran = False
        figures.append(Figure(strategy, "runs under RLIMIT_AS of 1 GiB", float(ran), Unit.YES_OR_NO, None, at_least(1)))
    return figures
