"""What Popek and Goldberg's three theorems say about an instruction set, and what they do not.

Each theorem has the shape "if the hypothesis is met, such a monitor may be constructed". The hypotheses are sufficient.
They are not necessary (their §6): where one is not met, nothing follows. A machine with a location-sensitive
instruction runs an unrelocated guest all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from simvirt.analyzer.model.classification import weakest
from simvirt.analyzer.model.properties import SENSITIVE, Evidence, Property, Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simvirt.analyzer.model.classification import Classification
    from simvirt.analyzer.model.state import Architecture


class Hypothesis(Enum):
    """Is what the theorem asks of an instruction set there?"""

    MET = "met"
    NOT_MET = "not-met"
    UNDECIDED = "undecided"


class Theorem(Enum):
    """A statement that concludes from an instruction set to a monitor."""

    VMM = "1"
    """Popek & Goldberg, Theorem 1: sensitive instructions are privileged."""
    RECURSIVE = "2"
    """Theorem 2: Theorem 1, and a VMM without timing dependencies can be constructed."""
    HYBRID = "3"
    """Theorem 3: user-sensitive instructions are privileged; Popek and Goldberg's user-sensitive."""
    HYBRID_PENNEMAN = "3-penneman"
    """Theorem 3 with user-sensitive after Penneman et al., Definition 11, which knows configuration. It knows no
    location, since they found no instruction that is sensitive to it; where one is, it counts as in Theorem 3."""
    ROOT_MODE = "root-mode"
    """Bugnion, Nieh & Tsafrir 2017, for processors with root and non-root modes and all state in both: a hypervisor may
    be constructed if each sensitive instruction traps in non-root mode, or acts on that mode's state alone."""


@dataclass(frozen=True, slots=True)
class TheoremVerdict:
    """What one theorem says about one instruction set, in one reading.

    :ivar critical: the forms that keep the hypothesis from being met.
    :ivar open: the forms of which not enough is known.
    :ivar evidence: the weakest that the answer rests on.
    :ivar under_c0: privileged means under the VMM's configuration, not for all configurations.
    """

    theorem: Theorem
    reading: Reading
    under_c0: bool
    hypothesis: Hypothesis
    critical: tuple[str, ...]
    open: tuple[str, ...]
    conclusion: str
    evidence: Evidence
    remarks: tuple[str, ...] = ()


_CONSTRUCTIBLE = {
    Theorem.VMM: "a virtual machine monitor may be constructed",
    Theorem.RECURSIVE: "the machine is recursively virtualizable",
    Theorem.HYBRID: "a hybrid virtual machine monitor may be constructed",
    Theorem.HYBRID_PENNEMAN: "a hybrid virtual machine monitor may be constructed",
    Theorem.ROOT_MODE: "a hypervisor may be constructed in root mode",
}
COUNTER_EXAMPLES = (
    "A VMM can be there all the same. Popek and Goldberg's own counter-examples (§6): a location-sensitive instruction "
    "shows nothing amiss to a guest that lies where it believes to lie, with the VMM above it; and one that can only "
    "narrow the bounds takes nothing from the VMM."
)
"""Why nothing follows where a hypothesis is not met."""
_DUPLICATE = (
    "the theorem asks for a full duplicate of the processor's state; what the processor does not switch itself, as "
    "CR2, DR0 to DR3 and the x87 and SSE registers of an x86, the hypervisor has to"
)
NOTHING_FOLLOWS = "nothing follows: the hypothesis is sufficient, not necessary"
NOT_DECIDED = "not decided"
IN_PART = (
    "only some forms of the instruction set were looked at: they can show that a hypothesis is not met, not that it is"
)


def verdicts(
    architecture: Architecture,
    classifications: Sequence[Classification],
    *,
    reading: Reading = Reading.REPAIRED,
    under_c0: bool = True,
    timing_free_vmm: bool | None = None,
    is_whole: bool = True,
) -> tuple[TheoremVerdict, ...]:
    """What each theorem says.

    :param timing_free_vmm: is there a VMM without timing dependencies for this machine? No instruction tells; None
        leaves Theorem 2 undecided where Theorem 1's hypothesis is met.
    :param is_whole: these are all forms of the instruction set; some of them can show that a hypothesis is not met, and
        never that it is.
    """
    remarks = architecture.assumptions if is_whole else (*architecture.assumptions, IN_PART)

    def judge(theorem: Theorem, sensitive: tuple[Property, ...]) -> TheoremVerdict:
        verdict = _judge(theorem, reading, classifications, sensitive, under_c0=under_c0, remarks=remarks)
        return verdict if is_whole else _in_part(verdict)

    first = judge(Theorem.VMM, SENSITIVE)
    has_root_mode = any(one.form.declared.non_root is not None for one in classifications)
    root_mode = _root_mode(classifications, reading, under_c0=under_c0)
    return (
        first,
        _recursive(first, timing_free_vmm),
        judge(Theorem.HYBRID, (Property.USER_SENSITIVE,)),
        judge(Theorem.HYBRID_PENNEMAN, (Property.USER_SENSITIVE_PENNEMAN, Property.USER_SENSITIVE)),
        *((root_mode if is_whole else _in_part(root_mode),) if has_root_mode else ()),
    )


def _in_part(verdict: TheoremVerdict) -> TheoremVerdict:
    """The same of some forms only: where none of them is in the way, another may be."""
    if verdict.hypothesis is not Hypothesis.MET:
        return verdict
    return replace(verdict, hypothesis=Hypothesis.UNDECIDED, conclusion=NOT_DECIDED, evidence=Evidence.UNKNOWN)


def _judge(
    theorem: Theorem,
    reading: Reading,
    classifications: Sequence[Classification],
    properties: tuple[Property, ...],
    *,
    under_c0: bool,
    remarks: tuple[str, ...],
) -> TheoremVerdict:
    privileged = Property.PRIVILEGED_UNDER_C0 if under_c0 else Property.PRIVILEGED
    critical, unknown = [], []
    for one in classifications:
        sensitive, traps = one.has_any(properties, reading), one.holds(privileged, reading)
        if sensitive and traps is False:
            critical.append(one)
        elif not (sensitive is False or traps):
            unknown.append(one)
    hypothesis = Hypothesis.NOT_MET if critical else Hypothesis.UNDECIDED if unknown else Hypothesis.MET
    evidence = [one.evidence_of(properties, reading, under_c0=under_c0) for one in critical[:1] or classifications]
    return TheoremVerdict(
        theorem=theorem,
        reading=reading,
        under_c0=under_c0,
        hypothesis=hypothesis,
        critical=tuple(one.form.identifier for one in critical),
        open=tuple(one.form.identifier for one in unknown),
        conclusion=_conclusion(theorem, hypothesis),
        evidence=weakest(evidence),
        remarks=(*remarks, COUNTER_EXAMPLES) if hypothesis is Hypothesis.NOT_MET else remarks,
    )


def _root_mode(classifications: Sequence[Classification], reading: Reading, *, under_c0: bool) -> TheoremVerdict:
    """What is declared of the sensitive forms in non-root mode; a form of which nothing is, leaves it undecided."""
    unknown = [
        one.form.identifier
        for one in classifications
        if one.sensitive(reading) is not False and one.form.declared.non_root is None
    ]
    hypothesis = Hypothesis.UNDECIDED if unknown else Hypothesis.MET
    return TheoremVerdict(
        theorem=Theorem.ROOT_MODE,
        reading=reading,
        under_c0=under_c0,
        hypothesis=hypothesis,
        critical=(),
        open=tuple(unknown),
        conclusion=_conclusion(Theorem.ROOT_MODE, hypothesis),
        evidence=Evidence.DECLARED,
        remarks=(
            "sensitive as in the legacy architecture; what becomes of each in non-root mode is the manual's word",
            _DUPLICATE,
        ),
    )


def _recursive(first: TheoremVerdict, timing_free_vmm: bool | None) -> TheoremVerdict:
    hypothesis = first.hypothesis
    remark = "condition (b), a VMM without timing dependencies, cannot be told from instructions"
    if hypothesis is Hypothesis.MET:
        hypothesis = {True: Hypothesis.MET, False: Hypothesis.NOT_MET, None: Hypothesis.UNDECIDED}[timing_free_vmm]
        if timing_free_vmm is not None:
            remark = "condition (b): " + ("a VMM without timing dependencies is there" if timing_free_vmm else "none")
    return TheoremVerdict(
        theorem=Theorem.RECURSIVE,
        reading=first.reading,
        under_c0=first.under_c0,
        hypothesis=hypothesis,
        critical=first.critical,
        open=first.open,
        conclusion=_conclusion(Theorem.RECURSIVE, hypothesis),
        evidence=first.evidence,
        remarks=(*first.remarks, remark),
    )


def _conclusion(theorem: Theorem, hypothesis: Hypothesis) -> str:
    if hypothesis is Hypothesis.MET:
        return _CONSTRUCTIBLE[theorem]
    return NOTHING_FOLLOWS if hypothesis is Hypothesis.NOT_MET else NOT_DECIDED
