"""The strategy `vtx`: the guest in VMX non-root mode."""

from __future__ import annotations

import calendar
from typing import TYPE_CHECKING, Final

from simvirt.guests.boot import initial_state
from simvirt.guests.load import load
from simvirt.machine.board import Board
from simvirt.machine.devices import io_apic
from simvirt.machine.hardware import MachineFeature
from simvirt.machine.machine import Machine
from simvirt.machine.pc import host_memory_size, pc_regions
from simvirt.strategies.strategy import Ability, MachineConfig, Means, StrategyInfo, Virtualized
from simvirt.strategies.vtx.controls import VMM_MEMORY, VmmPages
from simvirt.strategies.vtx.processor import VtxProcessor
from simvirt.strategies.vtx.vcpu import BoardVcpu
from simvirt.strategies.vtx.vm_memory import ADAPTER_ROMS, VmMemory
from simvirt.vmm.exit_log import ExitLog
from simvirt.vmm.host import Host
from simvirt.vmm.kvm_interface import KvmInterface, with_kvm_leaves
from simvirt.x86.addresses import PAGE_SIZE, Gpa, Hpa
from simvirt.x86.vmx import ExitReason

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage
    from simvirt.x86.cpuid import CpuModel

NS_PER_SECOND: Final = 1_000_000_000


class Vtx:
    """The guest runs in ring 0 of VMX non-root mode; the VMM gets control by VM exits that it chose in the VMCS."""

    info = StrategyInfo(
        name="vtx",
        title="VT-x",
        summary="the guest runs in ring 0 of VMX non-root mode; the VMM chooses in the VMCS what makes it exit",
        year=2005,
        reading="SDM Vol. 3C Chapters 24 to 28",
        abilities=frozenset(
            {Ability.REAL_MODE, Ability.PROTECTED_MODE, Ability.PAGING, Ability.LONG_MODE, Ability.UNMODIFIED}
        ),
        means=Means.NON_ROOT_MODE,
        aliases=("vt-x", "vmx"),
        vm_map=(),  # nothing differs: what the VMM keeps of CR0 and CR4, the guest sees by the read shadows
        exit_reasons=ExitReason,
    )

    def obstacle(self, image: GuestImage) -> str | None:
        """None: no guest has to be changed for it."""
        del image
        return None

    def build(self, image: GuestImage, config: MachineConfig) -> Virtualized:
        """A VM with the guest in its memory, on a PC that has more of it than the VM is told.

        :raises ImageError: the image does not fit into the memory.
        """
        return self.build_on(Host(self.partition_size(config)), image, config)

    def partition_size(self, config: MachineConfig) -> int:
        """Host memory that a VM takes."""
        return VMM_MEMORY + host_memory_size(config.memory_size)

    def build_on(self, host: Host, image: GuestImage, config: MachineConfig) -> Virtualized:
        """The same on a PC that has other VMs."""
        partition = host.partition(self.partition_size(config))
        cpu = host.new_cpu()
        engine = host.engine
        board = Board(engine.read_count, config.hardware(image))
        space = pc_regions(
            config.memory_size, Hpa(partition + VMM_MEMORY), firmware=image.needs_firmware, devices=board.memory
        )
        log = ExitLog()
        pages = VmmPages(partition)
        readable = {Gpa(gpa): pages.absent_page for gpa in ADAPTER_ROMS[::PAGE_SIZE]}
        if board.interrupts.io_apic is not None:
            board.interrupts.io_apic.keep_registers_in(host.memory.view, pages.io_apic)
            readable[Gpa(io_apic.BASE)] = pages.io_apic
        vm_memory = VmMemory(engine, pages, space, readable)
        paravirtual, cpu_model = self._paravirtual(board, config)
        vcpu = BoardVcpu(cpu, board, vm_memory, cpu_model, log)
        vcpu.paravirtual = paravirtual
        processor = VtxProcessor(vcpu, host)
        machine = Machine(processor, board, host.memory, space, engine.written)
        boot = load(image, config.memory_size, machine.write_physical, machine.board.hardware)
        processor.set_guest_state(initial_state(boot))
        return Virtualized(machine, cpu, log)

    @staticmethod
    def _paravirtual(board: Board, config: MachineConfig) -> tuple[KvmInterface | None, CpuModel]:
        """KVM's interface for a guest that is to have it, and the CPU model that tells of it."""
        if MachineFeature.KVM not in config.features:
            return None, config.cpu_model
        epoch = calendar.timegm(config.start_time.timetuple()) * NS_PER_SECOND
        clock = board.clock
        return KvmInterface(board.direct_memory, clock.now, clock.time_stamp, epoch), with_kvm_leaves(config.cpu_model)
