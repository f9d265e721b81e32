"""How each strategy copes with an instruction: what it has to do about it, by the means that it has registered.

One that lives on traps emulates what traps, and has no hold of what is sensitive and does not. One that runs the guest
in VMX non-root operation has the controls and the guest's own state, as the table of sensitive instructions says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simvirt.analyzer.report.tally import Answer, answer
from simvirt.strategies.registry import REFERENCE, STRATEGIES
from simvirt.strategies.strategy import Means
from simvirt.x86.sensitivity import Sensitivity, VtxBehaviour

if TYPE_CHECKING:
    from simvirt.analyzer.model.classification import Classification
    from simvirt.strategies.strategy import StrategyInfo


@dataclass(frozen=True, slots=True)
class Coping:
    """What one strategy does about one instruction."""

    strategy: str
    is_safe: bool
    """Does the guest get what its own machine would give it?"""
    text: str


def copings(one: Classification, row: Sensitivity | None) -> tuple[Coping, ...]:
    """Every strategy of the registry but the reference, in its order; `row` is what the literature has on the form."""
    what = answer(one)
    return tuple(
        _coping(strategy.info, what, row) for strategy in STRATEGIES if strategy.info.name != REFERENCE.info.name
    )


def _coping(info: StrategyInfo, what: Answer, row: Sensitivity | None) -> Coping:
    if what is Answer.INNOCUOUS and row is None:
        return Coping(info.name, True, "runs it as it is")
    match info.means:
        case Means.TRAPS:
            return _by_traps(info, what, row)
        case Means.NON_ROOT_MODE:
            done = "runs it on the guest's own state" if row is None else f"{_VTX[row.vtx]}: {row.vtx_note}"
            return Coping(info.name, True, done)
        case Means.TRANSLATION:
            return Coping(info.name, True, "puts something else in its place when it translates the guest's kernel")
        case Means.HYPERCALLS:
            return Coping(info.name, True, "does not meet it: the guest was changed to call the VMM instead")
        case Means.NONE:
            return Coping(info.name, False, "does nothing about it")


def _by_traps(info: StrategyInfo, what: Answer, row: Sensitivity | None) -> Coping:
    if what is Answer.CRITICAL:
        reason = row.reason if row is not None else "Nothing traps, so the VMM does not learn of it."
        return Coping(info.name, False, f"does not learn of it. {reason}")
    if what is Answer.PRIVILEGED:
        return Coping(info.name, True, "gets a trap when the guest's kernel executes it, and emulates it")
    return Coping(info.name, True, "runs it as it is")


_VTX = {
    VtxBehaviour.ALWAYS: "exits to the VMM without condition",
    VtxBehaviour.CONTROL: "exits to the VMM if a control asks for it",
    VtxBehaviour.SHADOW: "completes with what the VMM has set to be seen",
    VtxBehaviour.OWN_STATE: "completes on the guest's own state",
}
