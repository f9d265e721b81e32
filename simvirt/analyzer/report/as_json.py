"""An analysis as one JSON object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from simvirt.analyzer.coping import coping_rows
from simvirt.analyzer.model.properties import Property, Reading
from simvirt.analyzer.model.theorems import Theorem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simvirt.analyzer.model.analysis import Analysis
    from simvirt.analyzer.model.classification import Classification
    from simvirt.analyzer.model.theorems import TheoremVerdict

SCHEMA: Final = "simvirt.analysis/1"

_CLASSES: Final = tuple(which for which in Property if which not in (Property.PRIVILEGED, Property.PRIVILEGED_UNDER_C0))


def as_json(analysis: Analysis, classifications: Iterable[Classification] | None = None) -> dict[str, Any]:
    """The whole analysis, or the part of it that `classifications` is.

    Where not enough is known `critical` is false, and `evidence` is "unknown". Members are added when simvirt learns
    more; those that there are keep their meaning for as long as the number in `schema` stays.
    """
    shown = analysis.classifications if classifications is None else classifications
    theorems = analysis.theorems()
    return {
        "schema": SCHEMA,
        "isa": analysis.info.name,
        "engine": analysis.engine,
        "forms": [_form(one) for one in shown],
        "theorems": {
            "1": _theorem(theorems[Theorem.VMM]),
            "2": _theorem(theorems[Theorem.RECURSIVE]),
            "3": _theorem(theorems[Theorem.HYBRID]) | {"penneman": _theorem(theorems[Theorem.HYBRID_PENNEMAN])},
            **({"root-mode": _theorem(theorems[Theorem.ROOT_MODE])} if Theorem.ROOT_MODE in theorems else {}),
        },
        "obstacles": [{"name": o.name, "text": o.text, "source": o.source} for o in analysis.info.obstacles],
        "assumptions": list(analysis.architecture.assumptions),
        "strategies": [
            {
                "forms": list(row.forms),
                "title": row.title,
                **{one.strategy: {"copes": one.is_safe, "how": one.text} for one in row.copings},
            }
            for row in coping_rows(analysis)
        ],
        "disagreements": [
            {
                "form": one.form,
                "observed": one.observed,
                "declared": one.declared,
                "source": one.source,
                "reason": one.reason,
                "right": one.right,
            }
            for one in analysis.disagreements
        ],
    }


def _form(one: Classification) -> dict[str, Any]:
    form = one.form
    coverage = one.coverage
    return {
        "id": form.identifier,
        "form": form.text,
        "mnemonic": form.mnemonic,
        "bytes": form.encoding.hex(),
        "group": str(form.group),
        "declared": {
            "source": form.declared.source,
            "privileged": form.declared.privileged,
            "properties": None
            if form.declared.properties is None
            else sorted(which.value for which in form.declared.properties),
            **form.declared.facts,
        },
        "not_executed": form.not_executed or None,
        "privileged": {
            "letter": one.holds(Property.PRIVILEGED, Reading.LETTER),
            "repaired": one.holds(Property.PRIVILEGED),
            "under_c0": one.holds(Property.PRIVILEGED_UNDER_C0),
        },
        "classes": [which.value for which in _CLASSES if one.holds(which)],
        "classes_letter": [which.value for which in _CLASSES if one.holds(which, Reading.LETTER)],
        "critical": bool(one.critical()),
        "critical_for_all_configurations": bool(one.critical(under_c0=False)),
        "evidence": one.evidence.value,
        "coverage": {
            "observations": coverage.observations,
            "applicable": coverage.applicable,
            "exhaustive": coverage.exhaustive,
        },
        "witnesses": [witness.identifier for witness in one.witnesses],
    }


def _theorem(verdict: TheoremVerdict) -> dict[str, Any]:
    return {
        "hypothesis": verdict.hypothesis.value,
        "critical": list(verdict.critical),
        "open": list(verdict.open),
        "conclusion": verdict.conclusion,
        "evidence": verdict.evidence.value,
        "remarks": list(verdict.remarks),
    }
