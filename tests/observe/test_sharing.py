"""Several VMs on one PC: each runs as it would alone, and what one does to the PC does not reach another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from simvirt.errors import UsageError
from simvirt.guests.flat import flat_image
from simvirt.machine.machine import Outcome
from simvirt.observe.costs import find_costs
from simvirt.observe.results import Measured, Run, RunConfig
from simvirt.observe.session import run, run_together
from simvirt.observe.trial import Trial
from simvirt.strategies.registry import find
from simvirt.strategies.strategy import MachineConfig, SharesHost
from simvirt.vmm.host import Host, aligned
from simvirt.x86.addresses import PAGE_SIZE, Gpa
from simvirt.x86.cpuid import DEFAULT_CPU_MODEL, find_cpu_model
from tests.hostile.guests import MEMORY_SIZE, hostile_guest

if TYPE_CHECKING:
    from pathlib import Path

    from simvirt.guests.image import GuestImage

STRATEGIES = ("vtx", "trap-and-emulate")
GUESTS = ("hello", "ticker", "popf-mask", "sensitive")
BUDGET = 20_000


def counted(result: Run) -> Run:
    """Without what the host's clock said."""
    return replace(result, measured=Measured(0))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("slice_instructions", [211, 1_000_000])
def test_each_runs_as_it_does_alone(strategy: str, slice_instructions: int) -> None:
    together = run_together(GUESTS, strategy, slice_instructions=slice_instructions)
    for guest, result in zip(GUESTS, together.runs, strict=True):
        assert counted(result) == counted(run(guest, strategy)), guest
    assert together.slices >= len(GUESTS)
    assert 0 < together.world_switches < together.slices


def test_debug_registers_and_floating_point_state_are_exchanged() -> None:
    # mov eax, imm32; mov dr0, eax; fninit; fld1 (or fldpi); mov ecx, 0x1000; loop $; hlt
    images = [
        flat_image(bytes.fromhex(f"b8 {dr0} 0f23c0 dbe3 {load} b900100000 e2fe f4"), name)
        for name, dr0, load in (("first", "78563412", "d9e8"), ("second", "21433412", "d9eb"))
    ]
    together = run_together(images, "vtx", slice_instructions=100)
    states = [result.state for result in together.runs]
    assert [state.debug[0] for state in states if state] == [0x12345678, 0x12344321]
    for image, result in zip(images, together.runs, strict=True):
        assert counted(result) == counted(run(image, "vtx"))


def test_json_has_a_run_for_each() -> None:
    together = run_together(["hello", "hello"], "vtx").to_dict()
    assert together["schema"] == "simvirt.shared-run/1"
    assert [one["console"] for one in together["runs"]] == ["Hello from ring 0.\n"] * 2
    assert {one["schema"] for one in together["runs"]} == {"simvirt.run/1"}


def test_what_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(512))
    for arguments, message in (
        ({"guests": ["hello", "hello"], "strategy": "bare-metal"}, "no VMM"),
        ({"guests": []}, "no guest"),
        ({"guests": ["hello", "hello"], "disk": f"{disk}:rw"}, "without :rw"),
        ({"guests": ["hello"] * 3, "strategy": "tae", "memory": "2G"}, "no room"),
        ({"guests": ["hello"], "slice_instructions": 0}, "at least one"),
    ):
        with pytest.raises(UsageError, match=message):
            run_together(**arguments)


class Pair:
    """A hostile guest and a quiet one on one PC, and what the quiet one is alone."""

    def __init__(self, strategy: str, seed: int) -> None:
        self.strategy = found = find(strategy)
        assert isinstance(found, SharesHost)
        self.config = RunConfig(find_cpu_model(DEFAULT_CPU_MODEL).name, MEMORY_SIZE, 0, BUDGET)
        machine_config = MachineConfig(MEMORY_SIZE, find_cpu_model(DEFAULT_CPU_MODEL))
        self.size = aligned(found.partition_size(machine_config))
        self.host = Host(3 * self.size)
        guest = hostile_guest(seed)
        self.hostile = Trial(flat_image(b"\xf4", "hostile"), self.strategy, self.config, host=self.host)
        for at, data in guest.pieces:
            self.hostile.machine.write_physical(Gpa(at), data)
        self.hostile_cpu = self.host.on_processor
        self.quiet_image = quiet_guest()
        self.quiet = Trial(self.quiet_image, self.strategy, self.config, host=self.host)
        self.quiet_cpu = self.host.on_processor

    def frames(self, first: int, last: int) -> bytes:
        """Host memory of the partitions from one number to another."""
        return bytes(self.host.memory.view[first * self.size : last * self.size])

    def run(self, instructions: int) -> None:
        """Let them take turns until both have ended, and look at all other frames around each of the hostile one."""
        assert self.hostile_cpu is not None
        assert self.quiet_cpu is not None
        while self.runnable(self.hostile) or self.runnable(self.quiet):
            if self.runnable(self.hostile):
                self.host.switch_to(self.hostile_cpu)
                before = self.frames(1, 3)
                self.turn(self.hostile, instructions)
                assert self.frames(1, 3) == before
            if self.runnable(self.quiet):
                self.host.switch_to(self.quiet_cpu)
                self.turn(self.quiet, instructions)
        self.host.switch_to(self.quiet_cpu)

    @staticmethod
    def runnable(trial: Trial) -> bool:
        return trial.outcome is None and trial.count < BUDGET

    @staticmethod
    def turn(trial: Trial, instructions: int) -> None:
        trial.advance(min(trial.count + instructions, BUDGET), until_halt=True)
        trial.take_dirty_pages()


def quiet_guest() -> GuestImage:
    """Counts in memory, reads the TSC and the timer, prints a letter now and then, and ends."""
    # 0: inc [0x5000]; in al, 0x40; add [0x5004], al; rdtsc; add [0x5008], eax; test byte [0x5000], 0xff; jnz 0
    #    mov al, 'q'; mov dx, 0x3f8; out dx, al; cmp [0x5000], 0x400; jb 0; mov al, 7; out 0xf4, al; hlt
    code = (
        "ff0500500000 e440 000504500000 0f31 010508500000 f60500500000ff 75e1"
        "b071 66baf803 ee 813d0050000000040000 72ce b007 e6f4 f4"
    )
    return flat_image(bytes.fromhex(code), "quiet")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(10))  # one of each family, and more of those that matter
def test_a_hostile_guest_stays_inside(strategy: str, seed: int) -> None:
    pair = Pair(strategy, seed)
    pair.run(3001)
    alone = Trial(pair.quiet_image, pair.strategy, pair.config)
    alone.advance(BUDGET)
    costs = find_costs("core2-2006")
    found, expected = pair.quiet.finish(costs), alone.finish(costs)
    assert counted(found) == counted(expected)
    assert found.counted.instructions > 4000
    regions = pair.quiet.machine.space.ram
    for region in regions:
        ours = pair.quiet.machine.read_physical(region.start, region.size)
        assert ours == alone.machine.read_physical(region.start, region.size)
    assert all(pair.size <= page * PAGE_SIZE for page in pair.quiet.pages_outside)
    assert not any(page * PAGE_SIZE >= pair.size for page in pair.hostile.pages_outside)


def test_the_quiet_guest_does_what_it_says() -> None:
    result = run(quiet_guest(), "vtx", memory=MEMORY_SIZE)
    assert (result.outcome, result.guest_status, result.console) == (Outcome.FINISHED, 7, "qqqq")
