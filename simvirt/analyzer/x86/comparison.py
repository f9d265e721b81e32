"""What is written about the x86's forms, beside what was found: each difference with its reason, and who is right.

Three sources are compared, form by form:

* the decoder library's word on the CPL that a form needs, with what was observed;
* its word on VM exits, with the manual's (`isa/x86-sensitive.toml`);
* the lists of instructions that are sensitive and not privileged, with what was observed: Robin and Irvine's and what
  later authors added (`isa/x86-sensitive.toml`), and what some lists name beside these (``[[listed]]`` in the file
  of disagreements).

The reasons stand in `isa/x86-disagreements.toml`. A disagreement of which it says nothing has none; a test fails on it.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from simvirt.analyzer import toml_file
from simvirt.analyzer.model.analysis import Disagreement
from simvirt.analyzer.model.properties import Property
from simvirt.analyzer.x86.declared import DECODER, listed_row
from simvirt.analyzer.x86.variants import find_variant
from simvirt.data import isa_directory
from simvirt.x86.forms import ExitFact, PrivilegeFact, encoding_forms, find_form
from simvirt.x86.sensitivity import VtxBehaviour

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from simvirt.analyzer.model.classification import Classification

FILE: Final = "x86-disagreements.toml"


class About(StrEnum):
    """What two sources disagree about."""

    PRIVILEGE = "privilege"
    EXITS = "VM exits"
    LISTS = "lists"


class _Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    forms: tuple[str, ...]


class Listed(_Table, frozen=True):
    """``[[listed]]``: forms that some list has among the sensitive and unprivileged, beside the published ones."""

    source: str


class Reason(_Table, frozen=True):
    """``[[disagreement]]``: why two sources disagree about some forms, and who is right."""

    about: About
    reason: str
    right: str


class ReasonsFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The whole file."""

    disagreement: tuple[Reason, ...] = ()
    listed: tuple[Listed, ...] = ()

    def reason(self, form: str, about: About) -> Reason | None:
        """Why there is a disagreement about a form."""
        return next((row for row in self.disagreement if row.about is about and form in row.forms), None)


@lru_cache(maxsize=2)
def load(path: Path | None = None) -> ReasonsFile:
    """The file of reasons, proved well-formed.

    :raises TomlFileError: it is not.
    """
    file = toml_file.read(path or isa_directory() / FILE, ReasonsFile)
    known = {form.name for form in encoding_forms()}
    told: set[tuple[str, About]] = set()
    for index, row in enumerate(file.content.disagreement):
        place = ("disagreement", index)
        for name in row.forms:
            if name not in known:
                file.complain(f"forms: there is no form {name!r}", *place, "forms")
            if (name, row.about) in told:
                file.complain(f"forms: {name} has a reason already ({row.about})", *place, "forms")
            told.add((name, row.about))
        if not (row.reason.strip() and row.right.strip()):
            file.complain("reason, right: neither can be empty", *place)
    for index, listed in enumerate(file.content.listed):
        for name in set(listed.forms) - known:
            file.complain(f"forms: there is no form {name!r}", "listed", index, "forms")
    file.check()
    return file.content


def disagreements(name: str, classifications: Iterable[Classification]) -> Iterator[Disagreement]:
    """The differences about the forms of the x86 of this name; of forms that are not executed, about VM exits alone."""
    bits = int(find_variant(name).bits)
    reasons = load()
    for one in classifications:
        for about, found in _differences(one, bits, reasons):
            why = reasons.reason(one.form.identifier, about)
            yield Disagreement(
                one.form.identifier, *found, reason=why.reason if why else "", right=why.right if why else ""
            )


def stale(found: Iterable[Disagreement]) -> list[tuple[str, About]]:
    """Reasons for which there is no disagreement in any of the analyses that `found` are of."""
    explained = {(one.form, one.reason) for one in found}
    return [
        (form, row.about) for row in load().disagreement for form in row.forms if (form, row.reason) not in explained
    ]


_Found = tuple[str, str, str]
"""Observed, declared, source."""


def _differences(one: Classification, bits: int, reasons: ReasonsFile) -> Iterator[tuple[About, _Found]]:
    form = find_form(one.form.identifier)
    exits = _exits(one, bits)
    if exits is not None and exits is not form.exits:
        words = f"by the manual, as the list of sensitive instructions has it, VM exits: {exits.value}"
        yield About.EXITS, (words, f"VM exits: {form.exits.value}", DECODER)
    if one.form.not_executed:
        return
    observed = one.holds(Property.PRIVILEGED), one.holds(Property.PRIVILEGED_UNDER_C0)
    declared = _PRIVILEGED[form.privilege]
    if any(_contradicts(said, seen) for said, seen in zip(declared, observed, strict=True)):
        yield About.PRIVILEGE, (_privilege_words(observed), form.privilege.value, DECODER)
    yield from ((About.LISTS, found) for found in _by_lists(one, bits, reasons))


_PRIVILEGED: Final[dict[PrivilegeFact, tuple[bool | None, bool | None]]] = {
    PrivilegeFact.ANY: (False, False),
    PrivilegeFact.MAY_REQUIRE_CPL0: (False, None),  # by a control bit, which may be one of C0 or not
    PrivilegeFact.IO_PRIVILEGE: (False, True),
    PrivilegeFact.CPL0: (True, True),
}
"""What the library's word means: privileged for all configurations, and under C0; None: it can be either."""


def _contradicts(declared: bool | None, observed: bool | None) -> bool:
    """A silent source agrees with everything, and "not privileged" with what traps from every state."""
    return declared is not None and declared is not observed and (declared or observed is not None)


_EXITS: Final = {
    VtxBehaviour.ALWAYS: ExitFact.ALWAYS,
    VtxBehaviour.CONTROL: ExitFact.MAY,
    VtxBehaviour.SHADOW: ExitFact.NEVER,
    VtxBehaviour.OWN_STATE: ExitFact.NEVER,
}


def _exits(one: Classification, bits: int) -> ExitFact | None:
    """What the manual's rows say of VM exits; None where no row is about the form and it is not executed either."""
    row = listed_row(find_form(one.form.identifier), bits)
    if row is None:
        return None if one.form.not_executed else ExitFact.NEVER
    return _EXITS[row.vtx]


def _by_lists(one: Classification, bits: int, reasons: ReasonsFile) -> Iterator[_Found]:
    row = listed_row(find_form(one.form.identifier), bits)
    critical = bool(one.critical())
    seen = "critical" if critical else "privileged" if one.holds(Property.PRIVILEGED_UNDER_C0) else "not critical"
    if row is None:
        if seen != "not critical":
            yield seen, "in no published list", "Robin & Irvine 2000 and those after them"
    elif row.is_critical is not critical or row.privileged is not (seen == "privileged"):
        yield seen, "critical" if row.is_critical else "privileged", row.source
    for listed in reasons.listed:
        if one.form.identifier in listed.forms and not critical:
            yield seen, "critical", listed.source


def _privilege_words(observed: tuple[bool | None, bool | None]) -> str:
    for_all, under_c0 = observed
    if for_all is None:
        return "traps from every state that was tried"
    return "privileged" if for_all else "privileged under C0" if under_c0 else "not privileged"
