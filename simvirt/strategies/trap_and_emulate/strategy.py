"""Trap-and-emulate, as Popek and Goldberg describe it, on a processor that does not meet their condition.

The guest's kernel runs in ring 1 of the PC and its user code in ring 3; the VMM owns ring 0. GDT, IDT, TSS and control
registers of the guest are virtual. Privileged instructions fault and are emulated; sensitive ones that do not fault
give the guest the host's answers, as on every x86 before VT-x (Robin and Irvine 2000). They are left alone: where the
guest depends on them it diverges, and `compare` says where.

Read in this order: `reasons`, `dispatcher`, then `vmm.deprivileged_state`, `vmm.interpreter` and
`vmm.shadow_descriptors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.errors import UnsupportedError
from simvirt.guests.boot import initial_state
from simvirt.guests.load import load
from simvirt.machine.board import Board
from simvirt.machine.hardware import MachineFeature
from simvirt.machine.machine import Machine
from simvirt.machine.memory import GatedAddressSpace
from simvirt.machine.pc import BoardBus, host_memory_size, pc_regions
from simvirt.machine.svm import Intercepts, SvmExit
from simvirt.strategies.strategy import Ability, MachineConfig, MapRule, Means, StrategyInfo, Virtualized
from simvirt.strategies.trap_and_emulate.dispatcher import Dispatcher
from simvirt.strategies.trap_and_emulate.processor import DeprivilegedProcessor
from simvirt.strategies.trap_and_emulate.reasons import TrapReason
from simvirt.vmm.allocator import VMM_LINEAR_BASE, VMM_RESERVE, Allocator
from simvirt.vmm.exit_log import ExitLog
from simvirt.vmm.guest_memory import GuestMemory
from simvirt.vmm.host import Host
from simvirt.vmm.interpreter import Interpreter
from simvirt.vmm.virtual_cpu import VirtualCpu
from simvirt.x86.addresses import Hpa

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage


class TrapAndEmulate:
    """The guest's kernel in ring 1; what traps is emulated."""

    info = StrategyInfo(
        name="trap-and-emulate",
        title="Trap-and-emulate",
        summary=(
            "the guest's kernel runs in ring 1; privileged instructions trap and are emulated, and sensitive ones that "
            "do not trap go wrong"
        ),
        year=1974,
        reading="Popek and Goldberg 1974; Robin and Irvine 2000",
        abilities=frozenset({Ability.PROTECTED_MODE, Ability.UNMODIFIED, Ability.DEPRIVILEGES}),
        means=Means.TRAPS,
        aliases=("tae",),
        vm_map=(
            MapRule("CPL, RPL of CS and SS", "0 -> 1"),
            MapRule("DPL of loaded segments", "0 -> 1"),
            MapRule("EFLAGS.IF, EFLAGS.IOPL", "virtual; really 1 and 0"),
            MapRule("CR0, CR3, CR4, IA32_EFER", "virtual; really the VMM's, with paging on"),
            MapRule("GDTR, IDTR, LDTR, TR", "virtual; really the VMM's"),
        ),
        vmm_linear=range(VMM_LINEAR_BASE, 1 << 32),
        exit_reasons=TrapReason,
    )

    def obstacle(self, image: GuestImage) -> str | None:
        """A guest that starts in real-address mode, which has no rings; whatever else cannot be virtualized shows."""
        if image.needs_firmware:
            return (
                "it is booted by the PC's firmware, in real-address mode, where there is no ring to put a kernel into: "
                "bare-metal and vtx run it"
            )
        return None

    def build(self, image: GuestImage, config: MachineConfig) -> Virtualized:
        """A VM with the guest in its memory, its kernel de-privileged.

        :raises UnsupportedError: there is an obstacle.
        """
        return self.build_on(Host(self.partition_size(config)), image, config)

    def partition_size(self, config: MachineConfig) -> int:
        """Host memory that a VM takes."""
        return VMM_RESERVE + host_memory_size(config.memory_size)

    def build_on(self, host: Host, image: GuestImage, config: MachineConfig) -> Virtualized:
        """The same on a PC that has other VMs.

        :raises UnsupportedError: there is an obstacle.
        :raises UsageError: the VM's page tables, those of 32-bit paging, do not reach so far into the host's memory.
        """
        if (obstacle := self.obstacle(image)) is not None:
            raise UnsupportedError(f"{image.name} cannot run under trap-and-emulate: {obstacle}")
        config.refuse(MachineFeature.KVM, "this VMM does not offer it")
        partition = host.partition(self.partition_size(config), below=1 << 32)
        memory, real = host.memory, host.new_cpu()
        real.intercept(Intercepts(frozenset({SvmExit.IRET}), cr_reads=0, cr_writes=0, dr_writes=0))
        board = Board(real.engine.read_count, config.hardware(image))
        memory_size = min(config.memory_size, VMM_LINEAR_BASE)
        space = pc_regions(memory_size, Hpa(partition + VMM_RESERVE), devices=board.memory)
        bus = BoardBus(board, space, config.cpu_model)
        gated = GatedAddressSpace(space.regions)
        guest_memory = GuestMemory(real.engine, gated)
        allocator = Allocator(real.engine, memory, gated, partition)
        guest = VirtualCpu(real, memory, guest_memory, allocator, gated)
        log = ExitLog()
        guest.mmu.statistics = log.shadow_paging
        processor = DeprivilegedProcessor(guest, allocator, Dispatcher(guest, Interpreter(guest), bus, log), bus)
        real.engine.set_cpuid(config.cpu_model.native_leaves())
        real.engine.follow_model(config.cpu_model)
        real.engine.set_native_tsc(0, rdtscp=config.cpu_model.has_rdtscp)
        machine = Machine(processor, board, memory, space, guest.host_was_written)
        boot = load(image, config.memory_size, machine.write_physical, machine.board.hardware)
        processor.set_guest_state(initial_state(boot))
        return Virtualized(machine, guest, log)
