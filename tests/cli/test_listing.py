from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simvirt.analyzer.registry import INSTRUCTION_SETS
from simvirt.guests.catalogue import guests
from simvirt.x86.cpuid import CPU_MODELS

if TYPE_CHECKING:
    from tests.cli.conftest import Simvirt

_KINDS = {
    "guests": {guest.name for guest in guests()},
    "strategies": {"bare-metal", "trap-and-emulate", "vtx"},
    "cpus": set(CPU_MODELS),
    "isas": {row.info.name for row in INSTRUCTION_SETS},
    "costs": {"pentium4-672-2005", "core2-2006"},
}


@pytest.mark.parametrize("kind", _KINDS)
def test_table(simvirt: Simvirt, kind: str) -> None:
    result = simvirt("list", kind)
    assert (result.status, result.err) == (0, "")
    header, *rows = result.out.splitlines()
    assert header.split()
    assert {row.split()[0] for row in rows if not row.startswith(" ")} >= _KINDS[kind]
    assert max(map(len, rows)) <= 120
    assert "\x1b" not in result.out


@pytest.mark.parametrize("kind", _KINDS)
def test_json(simvirt: Simvirt, kind: str) -> None:
    listed = simvirt("list", kind, "--json").json()
    assert set(listed) == {"schema", kind}
    assert {row["name"] for row in listed[kind]} >= _KINDS[kind]
    assert all(row["summary"] for row in listed[kind])


def test_a_cost_preset_is_listed_with_every_number(simvirt: Simvirt) -> None:
    oldest, *_, newest = simvirt("list", "costs", "--json").json()["costs"]
    assert (oldest["ept"], newest["ept"]) == (False, True)
    assert (oldest["native"]["in"]["cycles"], oldest["traced_write"]["cycles"]) == (3209, 12733)
    assert (newest["native"], newest["traced_write"]) == ({}, None)


def test_one_default_of_each(simvirt: Simvirt) -> None:
    for kind in ("cpus", "costs"):
        assert [row["default"] for row in simvirt("list", kind, "--json").json()[kind]].count(True) == 1
