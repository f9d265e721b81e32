"""Monitors in the machine's own code: equivalent, nested, hybrid, and where no theorem promises anything."""

from __future__ import annotations

import pytest

from simvirt.analyzer.toys import machines
from simvirt.analyzer.toys.computer import Snapshot
from simvirt.analyzer.toys.lockstep import Equivalence, in_step
from simvirt.analyzer.toys.monitor import Guest, Monitored, computer, deepest, in_high_core, monitored, nested
from simvirt.analyzer.toys.psw import Psw
from simvirt.errors import UsageError
from tests.analyzer.toys import guests

BASE = machines.description(machines.THIRD_GENERATION)
JRST1 = machines.description(machines.JRST1)
LRA = machines.description(machines.LRA)


def test_the_kernel_on_the_bare_machine() -> None:
    bare = computer(BASE, guests.kernel(BASE))
    assert bare.run(1000)
    assert bare.snapshot().a == 2
    assert bare.traps == {"privilege": 2}
    assert bare.executed["u"] > bare.executed["s"]


def test_the_vmm_is_equivalent_in_each_step_and_runs_user_code_directly() -> None:
    found = in_step(BASE, monitored(BASE, guests.kernel(BASE)))
    bare = computer(BASE, guests.kernel(BASE))
    bare.run(1000)
    assert found.halted
    assert found.divergence is None
    assert found.virtual == bare.snapshot()
    privileged = 1 + 2 + 1 + 1  # its SPSW, LPSWs, LRB and last HALT
    assert found.direct == sum(bare.executed.values()) - privileged
    assert found.traps == 2 + privileged, "its program's two, and one for each privileged instruction of its supervisor"


@pytest.mark.parametrize("seed", range(25))
def test_the_vmm_is_equivalent_for_random_guests(seed: int) -> None:
    """Programs that trap, relocate themselves, leave their bounds, and overwrite their PSWs."""
    assert in_step(BASE, monitored(BASE, guests.random_guest(BASE, seed)), limit=150).divergence is None


@pytest.mark.parametrize("seed", range(1000, 1100))
@pytest.mark.long
def test_the_vmm_is_equivalent_for_many_random_guests(seed: int) -> None:
    assert in_step(BASE, monitored(BASE, guests.random_guest(BASE, seed, 64)), limit=1000).divergence is None


@pytest.mark.parametrize("depth", range(1, 7))
def test_vmms_under_vmms(depth: int) -> None:
    """Theorem 2. Each level takes the same words of storage, and doubles the traps, as each handles the one above."""
    guest = guests.kernel(BASE)
    bare = computer(BASE, guest)
    bare.run(1000)
    levels = nested(BASE, guest, depth)
    real = computer(BASE, levels[-1].whole)
    assert real.run(10_000 << depth)
    assert _innermost(real.snapshot(), levels) == bare.snapshot()
    own = levels[0].guest_at
    assert levels[-1].whole.size == guest.size + depth * own
    assert sum(real.traps.values()) + 1 == (7 + 1) << (depth - 1)


def _innermost(real: Snapshot, levels: list[Monitored]) -> Snapshot:
    """Each VMM's map f undone, from the outermost on."""
    storage = real.storage
    for level in reversed(levels[1:]):
        storage = storage[level.guest_at :]
    return levels[0].virtual(storage, real.a, real.x)


def test_recursion_ends_where_storage_does() -> None:
    guest = guests.kernel(BASE)
    depth = deepest(BASE, guest)
    assert nested(BASE, guest, depth)[-1].whole.size <= 4096
    with pytest.raises(UsageError, match="the machine has 4096"):
        nested(BASE, guest, depth + 1)


def test_resource_control_nothing_outside_of_the_guests_storage_changes() -> None:
    """A guest that asks for all of storage gets its own, and what it writes through that stays within."""
    greedy = Guest.of((0, Psw("s", 5, 0, 96).pack(), 3 << 13 | 6, 4 << 13, 0, 0, 90 << 13 | 8191), 96)
    below = monitored(BASE, greedy)
    found = in_step(BASE, below, limit=500)
    assert found.divergence is None
    for seed in range(20):
        program = monitored(BASE, guests.random_guest(BASE, seed))
        whole = program.whole
        padding = [0] * (whole.size - len(whole.image))
        real = computer(BASE, Guest.of((*whole.image, *padding, 7), whole.size + 1))
        code = [real.storage[at] for at in range(2, program.symbols["v_m"])]
        real.run(3000)
        assert [real.storage[at] for at in range(2, program.symbols["v_m"])] == code
        assert real.storage[-1] == 7


# ----------------------------------------------------------------------------------------------------------- JRST 1
def test_a_vmm_loses_the_mode_at_jrst1() -> None:
    """Theorem 1's hypothesis fails, and this guest shows why: the VMM never learns of the return to user mode."""
    found = in_step(JRST1, monitored(JRST1, guests.returning(JRST1)))
    assert found.divergence == 1
    assert (found.bare.psw.mode, found.virtual.psw.mode) == ("u", "s")


def test_a_hybrid_monitor_keeps_it() -> None:
    """Theorem 3."""
    found = in_step(JRST1, monitored(JRST1, guests.returning(JRST1), hybrid=True))
    assert found.halted
    assert found.divergence is None


@pytest.mark.parametrize("seed", range(25))
def test_a_hybrid_monitor_is_equivalent_for_random_guests(seed: int) -> None:
    guest = guests.random_guest(JRST1, seed)
    assert in_step(JRST1, monitored(JRST1, guest, hybrid=True), limit=150).divergence is None


def test_a_hybrid_monitor_runs_user_code_directly_and_no_supervisor_code() -> None:
    guest = guests.kernel(JRST1)
    bare = computer(JRST1, guest)
    bare.run(1000)
    found = in_step(JRST1, monitored(JRST1, guest, hybrid=True))
    assert found.divergence is None
    assert found.direct == bare.executed["u"]


# -------------------------------------------------------------------------------------------------------------- LRA
def test_a_relocated_guest_sees_real_addresses() -> None:
    below = monitored(LRA, guests.where(LRA))
    found = in_step(LRA, below)
    assert found.divergence == 1
    assert found.virtual.a - found.bare.a == below.guest_at


def test_an_unrelocated_guest_runs_although_no_hypothesis_is_met() -> None:
    """The theorems are sufficient, not necessary: with the VMM in high core nothing is relocated (§6 of the paper)."""
    found: Equivalence = in_step(LRA, in_high_core(LRA, guests.where(LRA)))
    assert found.halted
    assert found.divergence is None
    assert found.bare.storage[8] == 2


def test_a_guest_in_low_core_keeps_off_the_psws() -> None:
    with pytest.raises(UsageError, match="keep off"):
        in_high_core(LRA, guests.kernel(LRA))
