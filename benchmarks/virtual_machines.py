"""What a VMM's own work costs: a world switch, and an EPT violation that maps a page and resumes the guest."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Figure, Section, Target, Unit, at_most
from benchmarks.loop_guests import Loop
from benchmarks.machines import MEMORY, TAE, VTX, WrongEndingError
from benchmarks.timing import cpu_seconds, in_turns, tell
from simvirt.guests import catalogue
from simvirt.machine.engine import NEVER
from simvirt.strategies.registry import find
from simvirt.strategies.strategy import MachineConfig, SharesHost
from simvirt.strategies.vtx.processor import VtxProcessor
from simvirt.vmm.host import Host, aligned
from simvirt.x86.addresses import PAGE_SIZE, Gpa
from simvirt.x86.cpuid import DEFAULT_CPU_MODEL, find_cpu_model
from simvirt.x86.vmx import ExitReason, VmcsField

if TYPE_CHECKING:
    from benchmarks.plan import Plan

WORLD_SWITCH: Final = at_most(40)
EPT_VIOLATION: Final = at_most(10)

_GUEST: Final = "bench-dhrystone"
_STRIDE: Final = 997
_FIRST: Final = 8 << 20
_PAGES: Final = (MEMORY - _FIRST) // PAGE_SIZE - 1
_TOUCH: Final = Loop(
    "EPT violation: map a page, resume",
    bytes.fromhex("8b 06 81 c6 00 10 00 00"),  # mov eax, [esi]; add esi, 4096
    setup=b"\xbe" + _FIRST.to_bytes(4, "little"),
)


def run(plan: Plan) -> Section:
    """World switches under each strategy that has them, and EPT violations."""
    tell("world switches, EPT violations")
    figures = [figure for strategy in (VTX, TAE) for figure in _world_switches(plan, strategy)]
    figures.append(_ept_violations(plan))
    notes = (
        "World switch: all of the processor's state is saved, another VM's is loaded, the TLB is invalidated.",
        f"Its aftermath: two VMs with {_GUEST} in turns, {_STRIDE} instructions each, less one that stops as often.",
        f"EPT violations: a guest reads each of {min(plan.iterations, _PAGES):,} pages, less the same with all mapped.",
    )
    return Section("virtual-machines", "World switches and EPT violations", tuple(figures), notes)


def _config() -> MachineConfig:
    return MachineConfig(MEMORY, find_cpu_model(DEFAULT_CPU_MODEL))


def _world_switches(plan: Plan, name: str) -> list[Figure]:
    gc.collect()
    strategy, image = find(name), catalogue.find(_GUEST).image()
    assert isinstance(strategy, SharesHost)
    host = Host(2 * aligned(strategy.partition_size(_config())))
    vms = []
    for _ in range(2):
        machine = strategy.build_on(host, image, _config()).machine
        assert host.on_processor is not None
        vms.append((host.on_processor, machine))
    for cpu, machine in vms:
        host.switch_to(cpu)
        machine.run_to(_STRIDE * 10)

    def switches() -> None:
        for number in range(plan.stops):
            host.switch_to(vms[number & 1][0])

    def turns(distinct: int) -> None:
        for number in range(plan.stops):
            cpu, machine = vms[number & distinct]
            host.switch_to(cpu)
            machine.run_to(machine.count + _STRIDE)

    timings = in_turns(
        {
            "switch": partial(cpu_seconds, switches),
            "turns": partial(cpu_seconds, partial(turns, 1)),
            "alone": partial(cpu_seconds, partial(turns, 0)),
        },
        plan.rounds,
    )
    each = 1e6 / plan.stops
    switch, alone, shared = timings["switch"], timings["alone"], timings["turns"]

    def figure(what: str, least: float, middle: float, target: Target | None) -> Figure:
        return Figure(name, what, max(least, 0) * each, Unit.MICROSECONDS, max(middle, 0) * each, target)

    return [
        figure("world switch", switch.least, switch.median, None),
        figure(
            "world switch with its aftermath", shared.least - alone.least, shared.median - alone.median, WORLD_SWITCH
        ),
    ]


def _ept_violations(plan: Plan) -> Figure:
    pages = min(plan.iterations, _PAGES)

    def timed(*, mapped: bool) -> float:
        gc.collect()
        processor = find(VTX).build(_TOUCH.image(pages), _config()).machine.processor
        assert isinstance(processor, VtxProcessor)
        vcpu = processor.vcpu
        space, ept, vmcs, enter = vcpu.memory.space, vcpu.memory.ept, vcpu.vmcs, vcpu.non_root.enter
        if not mapped:
            ept.unmap(Gpa(_FIRST), pages * PAGE_SIZE)
        met = 0

        def serve() -> None:
            nonlocal met
            while (reason := enter(NEVER)) is ExitReason.EPT_VIOLATION:
                page = Gpa(vmcs.read(VmcsField.GUEST_PHYSICAL_ADDRESS) & ~(PAGE_SIZE - 1))
                host = space.host(page)
                assert host is not None
                ept.map(page, host, PAGE_SIZE)
                met += 1
            if reason is not ExitReason.IO_INSTRUCTION:
                raise WrongEndingError(f"{_TOUCH.name}: {reason}")

        seconds = cpu_seconds(serve)
        if met != (0 if mapped else pages):
            raise WrongEndingError(f"{_TOUCH.name}: {met} violations instead of {pages}")
        return seconds

    timings = in_turns({mapped: partial(timed, mapped=mapped) for mapped in (False, True)}, plan.rounds)
    each = 1e6 / pages
    return Figure(
        VTX,
        _TOUCH.name,
        max(timings[False].least - timings[True].least, 0) * each,
        Unit.MICROSECONDS,
        max(timings[False].median - timings[True].median, 0) * each,
        EPT_VIOLATION,
    )
