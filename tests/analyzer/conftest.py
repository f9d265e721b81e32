from __future__ import annotations

import pytest

from simvirt.analyzer.model.analysis import Analysis
from simvirt.analyzer.model.form import Form
from simvirt.analyzer.probe.sweep import machine_of, sweep
from simvirt.analyzer.x86.declared import sensitivity_of
from simvirt.analyzer.x86.variants import find_variant
from simvirt.x86.forms import find_form

FOUND_HERE = frozenset({"fnstenv-m14byte", "fnstenv-m28byte", "fnsave-m94byte", "fnsave-m108byte"})
"""In no published list: they store the selector that CS had at the last x87 instruction (SDM Vol. 1 §8.1.8)."""


def _of_interest(name: str) -> list[Form]:
    """All forms that touch the machine by any account, and a fortieth of the others."""
    bits = int(find_variant(name).bits)
    forms = [form for form in machine_of(name).forms() if not form.not_executed]
    return [
        form
        for number, form in enumerate(forms)
        if number % 40 == 0 or sensitivity_of(find_form(form.identifier), bits) or form.identifier in FOUND_HERE
    ]


@pytest.fixture(scope="session")
def pentium() -> Analysis:
    """The Pentium's forms of interest, classified once for all tests."""
    return sweep("x86-32", forms=_of_interest("x86-32"))


@pytest.fixture(scope="session")
def found_here() -> frozenset[str]:
    return FOUND_HERE
