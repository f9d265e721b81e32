"""How each strategy copes with an instruction: what it has to do about it, from what the strategies say of themselves.

A strategy that de-privileges the guest's kernel lives on traps: what traps it emulates, what is sensitive and does not
trap it has no hold of. One that does not de-privilege and is not the machine itself runs the guest in VMX non-root
operation, where the table of sensitive instructions says what the controls can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simvirt.analyzer.report.tally import Answer, answer
from simvirt.strategies.registry import REFERENCE, STRATEGIES
from simvirt.strategies.strategy import Ability
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
    if Ability.DEPRIVILEGES in info.abilities:
        if what is Answer.CRITICAL:
            reason = row.reason if row is not None else "Nothing traps, so the VMM does not learn of it."
            return Coping(info.name, False, f"does not learn of it. {reason}")
        if what is Answer.PRIVILEGED:
            return Coping(info.name, True, "gets a trap when the guest's kernel executes it, and emulates it")
        return Coping(info.name, True, "runs it as it is")
    if row is None:
        return Coping(info.name, True, "runs it on the guest's own state")
    return Coping(info.name, True, f"{_VTX[row.vtx]}: {row.vtx_note}")


_VTX = {
    VtxBehaviour.ALWAYS: "exits to the VMM without condition",
    VtxBehaviour.CONTROL: "exits to the VMM if a control asks for it",
    VtxBehaviour.SHADOW: "completes with what the VMM has set to be seen",
    VtxBehaviour.OWN_STATE: "completes on the guest's own state",
}
