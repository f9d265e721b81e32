"""Analyzing from Python and from the command line: a whole instruction set, one instruction, one witness.

>>> import simvirt
>>> analysis = simvirt.analyze("x86-32", form="popf", jobs=1)
>>> [one.form.text for one in analysis.critical()]
['POPF', 'POPFD']
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from simvirt.analyzer.probe import cache
from simvirt.analyzer.probe.executors import open_executor
from simvirt.analyzer.probe.sweep import Progress, machine_of, no_progress, sweep
from simvirt.analyzer.registry import INSTRUCTION_SETS, find
from simvirt.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from simvirt.analyzer.model.analysis import Analysis
    from simvirt.analyzer.model.experiment import Witness
    from simvirt.analyzer.model.form import Form


def analyze(
    isa: str,
    *,
    form: str | None = None,
    jobs: int | None = None,
    executor: Executor | str | None = None,
    progress: Progress = no_progress,
    use_cache: bool = True,
) -> Analysis:
    """Classify an instruction set against Popek and Goldberg's definitions, by experiment.

    Args:
        isa: a name of `simvirt list isas`, or the path of a TOML file that describes a machine of one's own.
        form: only the forms whose name, syntax or mnemonic this is or is a part of; ``*`` and ``?`` stand for letters.
        jobs: processes, by default one for each processor. A script that uses more than one keeps its own code under
            ``if __name__ == "__main__"``.
        executor: instead of processes here, any executor, or the address ``dask://HOST:PORT`` of a Dask cluster.
        progress: is told how many forms are done, of how many.
        use_cache: take a kept result if nothing that it depends on has changed, and keep this one.

    Raises:
        UnknownNameError: there is no such instruction set, or no form like that.
        UsageError: no cluster answers at the address.
    """
    whole = form is None and any(row.info.name == isa for row in INSTRUCTION_SETS)
    if whole and use_cache and (kept := cache.load(isa)) is not None:
        return kept
    find(isa)
    forms = None if form is None else forms_like(isa, form)
    if executor is not None and not isinstance(executor, str):
        analysis = sweep(isa, executor, forms=forms, progress=progress)
    else:
        few = forms is not None and len(forms) < 2 * _WORTH_A_PROCESS and executor is None
        with open_executor(1 if few else jobs, executor) as opened:
            analysis = sweep(isa, opened, forms=forms, progress=progress)
    if whole and use_cache:
        cache.store(isa, analysis)
    return analysis


_WORTH_A_PROCESS = 32
"""Forms that are worth starting another process for."""


def forms_like(isa: str, text: str) -> list[Form]:
    """The forms whose name, syntax or mnemonic `text` is or is a part of; ``*`` and ``?`` stand for letters.

    Raises:
        UnknownNameError: there is none.
    """
    forms = machine_of(isa).forms()
    wanted = text.strip().lower()
    pattern = wanted if set(wanted) & set("*?") else f"*{wanted}*"
    for names in (
        lambda form: form.identifier.lower() == wanted,
        lambda form: form.mnemonic.lower() in {wanted, f"{wanted}d", f"{wanted}q", f"{wanted}w"},
        lambda form: fnmatchcase(form.text.lower(), pattern) or fnmatchcase(form.identifier.lower(), pattern),
    ):
        if found := [form for form in forms if names(form)]:
            return found
    raise UnknownNameError("form", text, {form.mnemonic for form in forms}, [form.identifier for form in forms])


def find_witness(identifier: str, isa: str | None = None) -> tuple[str, Witness]:
    """The witness of this identifier, observed again now, and the instruction set that it belongs to.

    Raises:
        UsageError: it is no identifier of a witness, or none of that form has it.
        UnknownNameError: there is no such instruction set, or no such form in any.
    """
    form_name, _, rest = identifier.strip().partition("/")
    if rest.count("/") != 1:
        raise UsageError(
            f"'{identifier}' is no witness: they are named FORM/PROPERTY/DIGITS, as `simvirt analyze ISA` prints them"
        )
    names = [row.info.name for row in INSTRUCTION_SETS] if isa is None else [isa]
    known: set[str] = set()
    looked = []
    for name in names:
        if (form := _form(name, form_name, known)) is None:
            continue
        looked.append(name)
        for witness in sweep(name, forms=[form]).witnesses().values():
            if witness.identifier == identifier.strip():
                return name, witness
    if not looked:
        raise UnknownNameError("form", form_name, known)
    raise UsageError(
        f"'{identifier}': {form_name} has no such witness in {', '.join(looked)}; "
        f"`simvirt analyze {looked[0]} --form {form_name}` prints those that it has"
    )


def _form(isa: str, name: str, known: set[str]) -> Form | None:
    """The form of this name in an instruction set; `known` is told those that there are."""
    machine = machine_of(isa)
    names = machine.form_names()
    known.update(names)
    return machine.form(name) if name in names else None
