"""The TOML file of a processor: what its state consists of, what is tried, and what the literature says."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from simvirt.analyzer import toml_file
from simvirt.analyzer.model.form import Declared, Form
from simvirt.analyzer.model.properties import Property
from simvirt.analyzer.model.state import Architecture, Component, Part, Value
from simvirt.data import isa_directory

if TYPE_CHECKING:
    from simvirt.analyzer.toml_file import TomlFile

_PROPERTIES: Final = {which.value: which for which in Property}
_PARTS: Final = {part.value: part for part in Part}


class _Table(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    pass


class MachineTable(_Table):
    """``[machine]``."""

    name: str
    title: str
    summary: str
    mode: str
    privileged: list[str]
    user: str
    start: dict[str, int | str]
    """Every component's value in the plainest start state."""
    assumptions: list[str] = []
    vmm: dict[str, int | str] = {}


class ComponentTable(_Table):
    """``[[component]]``: a register, a field of one, or what the processor's module makes of them."""

    name: str
    part: str
    title: str
    register: str = ""
    """Unicorn's name; empty if the processor's module knows what it is."""
    bits: list[int] = []
    """Highest and lowest bit, where it is a field."""
    tried: list[int | str] = []
    """The values that pairs of states differ in, for a form that asks for it."""


class FormTable(_Table):
    """``[[form]]``."""

    text: str
    code: str
    """Bytes in hexadecimal, as they lie in memory."""
    group: str
    source: str
    mnemonic: str = ""
    starts: list[dict[str, int | str]] = msgspec.field(default_factory=lambda: [{}])
    """What the start states have otherwise than the plainest, the simplest first."""
    vary: list[str] = []
    """The components besides the mode that pairs differ in."""
    privileged: bool | None = None
    properties: list[str] | None = None
    """Of control-, mode- and configuration-sensitive those that the source declares."""
    unpredictable: list[str] = []
    exempt: list[str] = []
    """Components whose end is not compared: what a clock shows differs from run to run, and timing is exempt."""
    not_executed: str = ""
    """Why the engine cannot execute it."""


class DeviationTable(_Table):
    """``[[deviation]]``: where experiment and literature disagree, why, and who is right."""

    forms: list[str]
    about: str
    """``privileged`` or a property."""
    reason: str
    right: str


class ProcessorFile(_Table):
    """The whole file."""

    machine: MachineTable
    component: list[ComponentTable]
    form: list[FormTable]
    deviation: list[DeviationTable] = []


@lru_cache(maxsize=4)
def load(name: str) -> ProcessorFile:
    """The file ``isa/NAME.toml``, proved well-formed.

    :raises TomlFileError: it is not.
    """
    file = toml_file.read(isa_directory() / f"{name}.toml", ProcessorFile)
    _check(file)
    return file.content


def _check(file: TomlFile[ProcessorFile]) -> None:
    told = file.content
    for index, component in enumerate(told.component):
        if component.part not in _PARTS:
            file.complain(f"part: {component.part!r} is none of {', '.join(_PARTS)}", "component", index, "part")
        if component.name not in told.machine.start:
            file.complain(f"start: has no value for {component.name}", "machine", "start")
    identifiers = [identifier(told.machine.name, form.text) for form in told.form]
    for index, form in enumerate(told.form):
        if identifiers[index] in identifiers[:index]:
            file.complain(f"text: {form.text} is there already", "form", index, "text")
        _check_form(file, index, form)
    known = {one.partition(":")[2] for one in identifiers}
    for index, deviation in enumerate(told.deviation):
        for name in set(deviation.forms) - known:
            file.complain(f"forms: there is no form {name!r}", "deviation", index, "forms")
        if not (deviation.reason.strip() and deviation.right.strip()):
            file.complain("reason and right: both say something", "deviation", index)
    file.check()


def _check_form(file: TomlFile[ProcessorFile], index: int, form: FormTable) -> None:
    components = {one.name: one for one in file.content.component}
    if not form.source.strip():
        file.complain("source: is empty", "form", index, "source")
    names = {name for start in form.starts for name in start} | {*form.vary, *form.exempt}
    for name in sorted(names - components.keys()):
        if not name.startswith("["):
            file.complain(f"there is no [[component]] {name!r}", "form", index)
    for name in form.vary:
        if name in components and len(components[name].tried) < 2:
            file.complain(f"vary: {name} has not two values in tried", "form", index, "vary")
    for name in set(form.properties or []) - _PROPERTIES.keys():
        file.complain(f"properties: {name!r} is none", "form", index, "properties")
    try:
        bytes.fromhex(form.code)
    except ValueError:
        file.complain(f"code: {form.code!r} is not hexadecimal", "form", index, "code")


def identifier(machine: str, text: str) -> str:
    """A form's identifier, from its text.

    >>> identifier("arm", "LDM r1, {sp, lr}^")
    'arm:ldm-r1-sp-lr-^'
    """
    words = "".join(c if c.isalnum() or c in "^!#." else " " for c in text.lower()).split()
    return f"{machine}:{'-'.join(words)}"


def architecture(told: ProcessorFile) -> Architecture:
    """The state in terms of the model."""
    return Architecture(
        name=told.machine.name,
        components=tuple(Component(one.name, _PARTS[one.part], one.title) for one in told.component),
        mode=told.machine.mode,
        privileged_modes=tuple(told.machine.privileged),
        user_mode=told.machine.user,
        vmm_configuration=dict(told.machine.vmm),
        assumptions=tuple(told.machine.assumptions),
    )


def form(told: ProcessorFile, row: FormTable) -> Form:
    """A form, with what its source declares."""
    modes: frozenset[Value] = frozenset(row.unpredictable)
    properties = None if row.properties is None else frozenset(_PROPERTIES[name] for name in row.properties)
    return Form(
        identifier=identifier(told.machine.name, row.text),
        text=row.text,
        mnemonic=row.mnemonic or row.text.split()[0],
        encoding=bytes.fromhex(row.code),
        group=row.group,
        not_executed=row.not_executed,
        declared=Declared(row.source, row.privileged, properties, unpredictable_modes=modes),
    )
