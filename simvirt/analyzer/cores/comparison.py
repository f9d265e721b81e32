"""What the literature says of a processor's forms, beside what was found; each difference with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.analyzer.model.analysis import Disagreement
from simvirt.analyzer.model.properties import Property

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from simvirt.analyzer.cores.description import ProcessorFile
    from simvirt.analyzer.model.classification import Classification

COMPARED: Final = (
    Property.PRIVILEGED,
    Property.CONTROL_SENSITIVE,
    Property.MODE_SENSITIVE,
    Property.CONFIGURATION_SENSITIVE,
)
"""What the published tables have columns for."""


def disagreements(told: ProcessorFile, classifications: Iterable[Classification]) -> Iterator[Disagreement]:
    """Forms that are not what their source declares, column by column, in the repaired reading.

    A disagreement of which the file's deviations say nothing has no reason.
    """
    reasons = {(name, one.about): one for one in told.deviation for name in one.forms}
    for one in classifications:
        for which in COMPARED:
            declared = declares(one, which)
            observed = one.holds(which)
            if _agree(declared, observed):
                continue
            why = reasons.get((one.form.identifier.rpartition(":")[2], which.value))
            yield Disagreement(
                form=one.form.identifier,
                observed=_words(which, observed),
                declared=_words(which, declared),
                source=one.form.declared.source,
                reason=why.reason if why else "",
                right=why.right if why else "",
            )


def stale(told: ProcessorFile, classifications: Sequence[Classification]) -> list[tuple[str, str]]:
    """Deviations that explain nothing: forms and properties in which source and experiment agree."""
    by_name = {one.form.identifier.rpartition(":")[2]: one for one in classifications}
    properties = {which.value: which for which in COMPARED}
    return [
        (name, deviation.about)
        for deviation in told.deviation
        for name in deviation.forms
        if _agree(
            declares(by_name[name], properties[deviation.about]), by_name[name].holds(properties[deviation.about])
        )
    ]


def declares(one: Classification, which: Property) -> bool | None:
    """What the form's source says about a property; None where it is silent."""
    declared = one.form.declared
    if which is Property.PRIVILEGED:
        return declared.privileged
    return None if declared.properties is None else which in declared.properties


def _agree(declared: bool | None, observed: bool | None) -> bool:
    """A silent source agrees with everything, and "not" with what no pair of states says anything about."""
    return declared is None or observed is declared or (observed is None and not declared)


def _words(which: Property, holds: bool | None) -> str:
    return {True: which.value, False: f"not {which.value}", None: f"unknown whether {which.value}"}[holds]
