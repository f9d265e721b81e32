from __future__ import annotations

import tomllib
from typing import Any

import pytest

from simvirt.data import isa_directory
from simvirt.observe.costs import NativeOperation
from simvirt.x86.vmx.exit_reasons import ExitReason

PRESETS: list[dict[str, Any]] = tomllib.loads((isa_directory() / "costs.toml").read_text(encoding="utf-8"))["preset"]
REQUIRED = {
    "instruction",
    "vm_exit",
    "vm_exit_service",
    "trap",
    "bt_callout",
    "bt_in_cache",
    "bt_translate",
    "hypercall",
}

# Agesen et al. 2012, Table 1
ROUND_TRIPS = {
    "core2-2006": 1579,
    "penryn-2008": 1266,
    "nehalem-2009": 1009,
    "westmere-2010": 761,
    "sandy-bridge-2011": 784,
}


def test_names_are_unique() -> None:
    assert len({preset["name"] for preset in PRESETS}) == len(PRESETS)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: str(preset["name"]))
def test_every_number_has_a_source_and_a_confidence(preset: dict[str, Any]) -> None:
    assert set(preset) <= {"name", "title", "year", "summary", "costs", "vm_exits", "native", "ept", "traced_write"}
    assert set(preset["costs"]) == REQUIRED
    assert set(preset.get("vm_exits", {})) <= set(ExitReason.__members__)
    assert set(preset.get("native", {})) <= {operation.value for operation in NativeOperation}
    assert isinstance(preset.get("ept", True), bool)
    single = {"traced_write": preset["traced_write"]} if "traced_write" in preset else {}
    for costs in (*(preset.get(table, {}) for table in ("costs", "vm_exits", "native")), single):
        for cost in costs.values():
            assert set(cost) - {"measured_on"} == {"cycles", "confidence", "source"}
            assert cost["confidence"] == "assumed" or "measured_on" not in cost
            assert cost["cycles"] > 0
            assert cost["confidence"] in ("published", "derived", "assumed")
            assert cost["source"]


def test_published_round_trips() -> None:
    published = {preset["name"]: preset["costs"]["vm_exit"]["cycles"] for preset in PRESETS}
    assert {name: published[name] for name in ROUND_TRIPS} == ROUND_TRIPS
    # Adams & Agesen 2006, Table 1: entry and exit of the Pentium 4 672
    assert published["pentium4-672-2005"] == 2409 + 1931
