"""How each strategy copes with an instruction: what it has to do about it, by the means that it has registered.

One that lives on traps emulates what traps, and has no hold of what is sensitive and does not. One that runs the guest
in VMX non-root operation has the controls and the guest's own state, as the table of sensitive instructions says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simvirt.analyzer.model.properties import Property
from simvirt.analyzer.report.tally import Answer
from simvirt.analyzer.x86.declared import listed_row
from simvirt.analyzer.x86.variants import VARIANTS
from simvirt.strategies.registry import REFERENCE, STRATEGIES
from simvirt.strategies.strategy import Means
from simvirt.x86.forms import find_form
from simvirt.x86.sensitivity import Sensitivity, VtxBehaviour

if TYPE_CHECKING:
    from simvirt.analyzer.model.analysis import Analysis
    from simvirt.analyzer.model.classification import Classification
    from simvirt.strategies.strategy import StrategyInfo


@dataclass(frozen=True, slots=True)
class Coping:
    """What one strategy does about one instruction."""

    strategy: str
    is_safe: bool
    """Does the guest get what its own machine would give it?"""
    what: str
    """What it does, in words that many instructions share."""
    detail: str = ""
    """What that means for this one: a clause, or a sentence."""

    @property
    def text(self) -> str:
        """Both."""
        if not self.detail:
            return self.what
        return f"{self.what}{'.' if self.detail[0].isupper() else ':'} {self.detail}"


def copings(one: Classification, row: Sensitivity | None) -> tuple[Coping, ...]:
    """Every strategy of the registry but the reference, in its order; `row` is what the literature has on the form."""
    what = _kind(one)
    return tuple(
        _coping(strategy.info, what, row) for strategy in STRATEGIES if strategy.info.name != REFERENCE.info.name
    )


@dataclass(frozen=True, slots=True)
class CopingRow:
    """What each strategy does about critical forms of which all that is written is alike."""

    title: str
    """The instructions, as the manual writes them."""
    forms: tuple[str, ...]
    copings: tuple[Coping, ...]


def coping_rows(analysis: Analysis) -> tuple[CopingRow, ...]:
    """A row for each group of critical forms of an x86; none for a machine that no strategy is for."""
    variant = next((variant for variant in VARIANTS if variant.name == analysis.info.name), None)
    if variant is None:
        return ()
    found: dict[str, tuple[list[str], tuple[Coping, ...]]] = {}
    for one in analysis.critical():
        row = listed_row(find_form(one.form.identifier), int(variant.bits))
        title = row.title if row is not None else one.form.mnemonic.upper()
        found.setdefault(title, ([], copings(one, row)))[0].append(one.form.identifier)
    return tuple(CopingRow(title, tuple(forms), how) for title, (forms, how) in found.items())


def _kind(one: Classification) -> Answer:
    """What it is to a VMM, by experiment, or by what is written where it was not executed."""
    if one.critical():
        return Answer.CRITICAL
    if one.holds(Property.PRIVILEGED_UNDER_C0):
        return Answer.PRIVILEGED
    return Answer.UNKNOWN if one.critical() is None else Answer.INNOCUOUS


def _coping(info: StrategyInfo, what: Answer, row: Sensitivity | None) -> Coping:
    if what is Answer.INNOCUOUS and row is None:
        return Coping(info.name, True, "runs it as it is")
    if what is Answer.UNKNOWN and row is None:
        return Coping(info.name, False, "is not known to cope", "nothing was run, and nothing is written of it")
    match info.means:
        case Means.TRAPS:
            return _by_traps(info, what, row)
        case Means.NON_ROOT_MODE:
            if row is None:
                return Coping(info.name, True, _VTX[VtxBehaviour.OWN_STATE])
            return Coping(info.name, True, _VTX[row.vtx], row.vtx_note)
        case Means.TRANSLATION:
            return Coping(info.name, True, "puts something else in its place when it translates the guest's kernel")
        case Means.HYPERCALLS:
            return Coping(info.name, True, "does not meet it: the guest was changed to call the VMM instead")
        case Means.NONE:
            return Coping(info.name, False, "does nothing about it")


def _by_traps(info: StrategyInfo, what: Answer, row: Sensitivity | None) -> Coping:
    if what is Answer.CRITICAL:
        return Coping(info.name, False, "does not learn of it", row.reason if row is not None else "nothing traps")
    if what is Answer.PRIVILEGED:
        return Coping(info.name, True, "gets a trap when the guest's kernel executes it, and emulates it")
    return Coping(info.name, True, "runs it as it is")


_VTX = {
    VtxBehaviour.ALWAYS: "exits to the VMM without condition",
    VtxBehaviour.CONTROL: "exits to the VMM if a control asks for it",
    VtxBehaviour.SHADOW: "completes with what the VMM has set to be seen",
    VtxBehaviour.OWN_STATE: "completes on the guest's own state",
}
