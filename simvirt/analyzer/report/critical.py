"""The critical forms as a list for people: those of one instruction in a line, each line with the plainest evidence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.model.experiment import Manner
from simvirt.analyzer.model.properties import SENSITIVE, Property
from simvirt.analyzer.report.tally import by_group, shows

if TYPE_CHECKING:
    from simvirt.analyzer.model.analysis import Analysis
    from simvirt.analyzer.model.classification import Classification
    from simvirt.analyzer.model.experiment import Witness

COLUMNS: Final = {
    Property.CONTROL_SENSITIVE: ("C", "control sensitive: it changes the mode or the configuration"),
    Property.MODE_SENSITIVE: ("M", "mode sensitive: its result depends on the mode"),
    Property.CONFIGURATION_SENSITIVE: (
        "Cf", "configuration sensitive: its result depends on a configuration register",
    ),
    Property.LOCATION_SENSITIVE: ("L", "location sensitive: its result depends on where its storage really lies"),
    Property.SENSITIVE_NO_OP: ("0", "a sensitive no-op: it silently does nothing where it should"),
}  # fmt: skip
"""What is told of each, with the letters that Penneman et al. head their table with, and what they mean."""
_TELLING: Final = {
    "silent-read": Property.CONFIGURATION_SENSITIVE,
    "silent-drop": Property.CONFIGURATION_SENSITIVE,
    "wrong-result": Property.MODE_SENSITIVE,
    "fault-or-wrong": Property.MODE_SENSITIVE,
}
"""By what a guest meets, as the literature has it: the property that shows it best."""


@dataclass(frozen=True)
class CriticalLine:
    """All critical forms of what is one instruction to people: of a row of the literature, or of a mnemonic."""

    group: str
    title: str
    """As the manual writes it: "POPF, POPFD", "POP to a segment register"."""
    forms: tuple[Classification, ...]

    def has(self, which: Property) -> bool:
        """Has one of the forms this property?"""
        return any(one.holds(which) for one in self.forms)

    @cached_property
    def witness(self) -> Witness | None:
        """The plainest evidence; None where a manual's word is all.

        What is known of the instruction says which property tells most; a silent witness is plainer than a trap's.
        """
        telling = _TELLING.get(str(self.forms[0].form.declared.facts.get("failure", "")))
        found = [witness for one in self.forms for which in SENSITIVE for witness in one.claim(which).witnesses]
        return min(found, key=lambda one: (one.shows is not telling, one.manner is not Manner.SILENT), default=None)

    @property
    def seen(self) -> str:
        """What the plainest evidence shows, in words."""
        if self.witness is not None:
            return shows(self.witness)
        return f"not seen, declared: {self.forms[0].form.declared.source}"

    @property
    def listed(self) -> str:
        """Robin and Irvine's requirement that it violates, with "(prose)" if only their text says so; "later", or "".

        That is for the x86; of other machines the literature has no such list.
        """
        facts = self.forms[0].form.declared.facts
        paper = str(facts.get("paper", ""))
        if paper == "no":
            return "later"
        return f"{facts.get('requirement', '')} {'(prose)' if paper == 'prose' else ''}".strip()


def critical_lines(analysis: Analysis) -> tuple[CriticalLine, ...]:
    """The critical forms in lines, in the order of groups."""
    lines: dict[tuple[str, str], list[Classification]] = {}
    for one in analysis.critical():
        listed = str(one.form.declared.facts.get("listed as", one.form.mnemonic.upper()))
        lines.setdefault((str(one.form.group), listed), []).append(one)
    order = [tally.group for tally in by_group(analysis)]
    found = [CriticalLine(group, _title(listed, forms), tuple(forms)) for (group, listed), forms in lines.items()]
    return tuple(sorted(found, key=lambda line: order.index(line.group)))


def _title(listed: str, forms: list[Classification]) -> str:
    """Of "PUSHF, PUSHFD, PUSHFQ" what this instruction set has; phrases stay."""
    mnemonics = {one.form.mnemonic.upper() for one in forms}
    return ", ".join(name for name in listed.split(", ") if " " in name or name in mnemonics)
