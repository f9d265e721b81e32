"""The real page tables of a de-privileged guest: its memory, the VMM's pages for supervisors, and nothing else."""

from __future__ import annotations

import pytest

from simvirt.machine.fills import Access
from simvirt.vmm.allocator import VMM_LINEAR_BASE, VMM_RESERVE
from simvirt.x86.addresses import Gpa, Gva
from tests.support.twins import GDT, MEMORY, Twins, start


@pytest.fixture
def begun(twins: Twins) -> Twins:
    twins.begin(b"\xf4", start(ldt=0))
    return twins


def _reach(twins: Twins, linear: int, access: Access, *, user: bool) -> int | None:
    return twins.virtual_cpu.engine.translate(Gva(linear), access, user=user)


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("access", Access)
def test_linear_addresses_are_guest_physical_ones(begun: Twins, access: Access, user: bool) -> None:
    for linear in range(0x3000, MEMORY, 0x1000):
        assert _reach(begun, linear + 5, access, user=user) == VMM_RESERVE + linear + 5


@pytest.mark.parametrize("user", [False, True])
def test_nothing_else_is_reached(begun: Twins, user: bool) -> None:
    """Above all not the VMM's reserve, in which page tables and shadows lie."""
    reached = {_reach(begun, linear, Access.READ, user=user) for linear in range(MEMORY, VMM_LINEAR_BASE, 0x7F_F000)}
    assert reached == {None}


def test_the_vmm_s_pages_are_read_only_and_for_supervisors(begun: Twins) -> None:
    for linear in range(VMM_LINEAR_BASE, VMM_LINEAR_BASE + 34 * 0x1000, 0x1000):
        assert _reach(begun, linear, Access.READ, user=False) is not None
        assert _reach(begun, linear, Access.WRITE, user=False) is None
        assert all(_reach(begun, linear, access, user=True) is None for access in Access)
    assert _reach(begun, VMM_LINEAR_BASE + 34 * 0x1000, Access.READ, user=False) is None


def test_the_vmm_s_pages_are_not_the_guest_s_memory(begun: Twins) -> None:
    hosts = [_reach(begun, VMM_LINEAR_BASE + i * 0x1000, Access.READ, user=False) for i in range(34)]
    assert all(host is not None and host < VMM_RESERVE for host in hosts)
    space = begun.virtual.machine.space
    assert all(space.host(Gpa(a)) is None or space.host(Gpa(a)) >= VMM_RESERVE for a in range(0, 1 << 20, 0x1000))  # type: ignore[operator]


@pytest.mark.parametrize("user", [False, True])
def test_traced_pages_are_read_only(begun: Twins, user: bool) -> None:
    """For supervisors too: CR0.WP is 1."""
    assert _reach(begun, GDT, Access.READ, user=user) == VMM_RESERVE + GDT
    assert _reach(begun, GDT, Access.WRITE, user=user) is None
    with begun.virtual_cpu.shadow.untraced():
        assert _reach(begun, GDT, Access.WRITE, user=user) == VMM_RESERVE + GDT
    assert _reach(begun, GDT, Access.WRITE, user=user) is None
