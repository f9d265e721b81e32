"""What a machine's description declares, beside what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.analyzer.model.analysis import Disagreement
from simvirt.analyzer.model.properties import Property

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from simvirt.analyzer.model.classification import Classification

_NOT_DECLARED = frozenset({Property.PRIVILEGED, Property.PRIVILEGED_UNDER_C0, Property.UNPREDICTABLE})


def disagreements(classifications: Iterable[Classification]) -> Iterator[Disagreement]:
    """Forms that are not what their description declares, in the repaired reading."""
    for one in classifications:
        declared = one.form.declared
        if declared.privileged is not None and one.holds(Property.PRIVILEGED) is not declared.privileged:
            yield _disagree(one, _word(one.holds(Property.PRIVILEGED)), _word(declared.privileged))
        if declared.properties is not None:
            found = frozenset(one.properties()) - _NOT_DECLARED
            if found != declared.properties - _NOT_DECLARED:
                yield _disagree(one, _list(found), _list(declared.properties))


def _disagree(one: Classification, observed: str, declared: str) -> Disagreement:
    return Disagreement(one.form.identifier, observed, declared, one.form.declared.source)


def _word(privileged: bool | None) -> str:
    return {True: "privileged", False: "not privileged", None: "unknown whether privileged"}[privileged]


def _list(found: Iterable[Property]) -> str:
    return ", ".join(which.value for which in Property if which in set(found)) or "innocuous"
