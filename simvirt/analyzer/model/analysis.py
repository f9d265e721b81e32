"""The whole that an analysis of an instruction set came to: what commands and notebooks print."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from simvirt.analyzer.model.classify import classify
from simvirt.analyzer.model.properties import Reading
from simvirt.analyzer.model.theorems import verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from simvirt.analyzer.model.classification import Classification
    from simvirt.analyzer.model.experiment import Witness
    from simvirt.analyzer.model.form import Form
    from simvirt.analyzer.model.machine_model import MachineModel
    from simvirt.analyzer.model.state import Architecture
    from simvirt.analyzer.model.theorems import Theorem, TheoremVerdict


_REPORT = "simvirt.analyzer.report.html"
"""What draws an analysis in Jupyter: a value knows nothing of how it is shown, and loads it when it is."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands in a VMM's way and is no instruction: a hidden register, a fixed segment."""

    name: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two sources that say different things about one form, and who is right.

    :ivar observed: what the experiments say.
    :ivar declared: what `source` says.
    :ivar reason: why they differ; "" is a disagreement that nobody has explained, which a test fails on.
    :ivar right: who is right: the source, the experiment, or the manual that both are measured by.
    """

    form: str
    observed: str
    declared: str
    source: str
    reason: str = ""
    right: str = ""


@dataclass(frozen=True, slots=True)
class InstructionSetInfo:
    """What is known of an instruction set beside its instructions.

    :ivar name: as the command line takes it.
    :ivar timing_free_vmm: is there a VMM without timing dependencies? None: not known (Theorem 2, condition b).
    """

    name: str
    title: str
    summary: str
    obstacles: tuple[Obstacle, ...] = ()
    timing_free_vmm: bool | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Analysis:
    """What an instruction set was found to be.

    :ivar is_whole: all its forms were looked at; of some of them no theorem's hypothesis can be said to be met.
    """

    info: InstructionSetInfo
    engine: str
    architecture: Architecture
    classifications: tuple[Classification, ...]
    disagreements: tuple[Disagreement, ...] = ()
    is_whole: bool = True

    def theorems(self, reading: Reading = Reading.REPAIRED, *, under_c0: bool = True) -> dict[Theorem, TheoremVerdict]:
        """What each theorem says, in a reading, with privileged under C0 or for all configurations."""
        said = verdicts(
            self.architecture,
            self.classifications,
            reading=reading,
            under_c0=under_c0,
            timing_free_vmm=self.info.timing_free_vmm,
            is_whole=self.is_whole,
        )
        return {verdict.theorem: verdict for verdict in said}

    def critical(self, reading: Reading = Reading.REPAIRED, *, under_c0: bool = True) -> tuple[Classification, ...]:
        """The forms that are sensitive and not privileged."""
        return tuple(one for one in self.classifications if one.critical(reading, under_c0=under_c0))

    def witnesses(self) -> dict[str, Witness]:
        """All witnesses by identifier."""
        return {witness.identifier: witness for one in self.classifications for witness in one.witnesses}

    def _repr_html_(self) -> str:
        return str(import_module(_REPORT).fragment(self))

    def form(self, identifier: str) -> Classification:
        """The classification of one form.

        :raises KeyError: there is no such form.
        """
        for one in self.classifications:
            if one.form.identifier == identifier:
                return one
        raise KeyError(identifier)


def classify_form(machine: MachineModel, form: Form) -> Classification:
    """One form, classified from what the machine does."""
    observations = () if form.not_executed else machine.observe(form)
    return classify(machine.architecture, form, observations, exhaustive=machine.exhaustive)


def analyze(
    info: InstructionSetInfo,
    machine: MachineModel,
    forms: Sequence[Form] | None = None,
    disagreements: Iterable[Disagreement] = (),
) -> Analysis:
    """The whole instruction set, or some of its forms, classified in this process one after the other."""
    classifications = tuple(classify_form(machine, form) for form in (machine.forms() if forms is None else forms))
    return Analysis(
        info, machine.engine, machine.architecture, classifications, tuple(disagreements), is_whole=forms is None
    )
