"""What a VMM writes down."""

from __future__ import annotations

from enum import Enum

from simvirt.vmm.exit_log import ATTEMPTS_KEPT, Disposition, ExitLog, Intervention, ResourceAttempt
from simvirt.x86.addresses import Port


class _Reason(Enum):
    ONE = 1
    TWO = 2


def test_exits_are_numbered_and_counted_by_reason_and_kind() -> None:
    log = ExitLog()
    assert [log.note(reason, Intervention.EMULATED) for reason in (_Reason.ONE, _Reason.TWO, _Reason.ONE)] == [1, 2, 3]
    assert log.note(_Reason.TWO, Intervention.HIDDEN) == log.total == 4
    assert log.counts == {_Reason.ONE: 2, _Reason.TWO: 2}
    assert log.interventions == {Intervention.EMULATED: 3, Intervention.HIDDEN: 1}
    assert log.hidden == {_Reason.TWO: 1}


def test_attempts_are_kept_up_to_a_number() -> None:
    log = ExitLog()
    for i in range(ATTEMPTS_KEPT + 5):
        assert log.keeps_attempts is (i < ATTEMPTS_KEPT)
        log.attempt(ResourceAttempt(i, "memory", Disposition.ABSORBED))
    assert [a.instruction for a in log.attempts] == list(range(ATTEMPTS_KEPT))


def test_a_port_that_nobody_claims() -> None:
    log = ExitLog()
    log.unclaimed_port(7, Port(0x80), 1, is_out=False)
    log.unclaimed_port(8, Port(0x80), 4, is_out=True)
    assert [a.resource for a in log.attempts] == ["IN port 0x80, 1 byte", "OUT port 0x80, 4 bytes"]
