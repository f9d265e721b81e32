"""A VM made through the KVM interface, for its tests."""

from __future__ import annotations

from simvirt.kvm import Kvm, MemoryFlags, UserMemory, Vcpu, Vm

RAM = 0x10000
CODE = 0x1000
DEVICE = 0x20000
IDT, GDT, HANDLERS = 0x2000, 0x2800, 0x3000


class Rig:
    """A VM in flat 32-bit protected mode with a little memory."""

    def __init__(self, code: str, kvm: Kvm | None = None) -> None:
        self.kvm = kvm or Kvm(memory=16 << 20)
        self.vm: Vm = self.kvm.create_vm()
        self.memory: UserMemory = self.kvm.mmap(RAM)
        self.vm.set_user_memory_region(0, 0, RAM, self.memory.address, MemoryFlags.LOG_DIRTY_PAGES)
        data = bytes.fromhex(code)
        self.memory[CODE : CODE + len(data)] = data
        self.vcpu: Vcpu = self.vm.create_vcpu()
        sregs = self.vcpu.get_sregs()
        sregs.cr0 |= 1
        sregs.cs.base, sregs.cs.selector, sregs.cs.limit, sregs.cs.db, sregs.cs.g = 0, 8, 0xFFFF_FFFF, 1, 1
        for segment in (sregs.ds, sregs.es, sregs.ss):
            segment.selector, segment.limit, segment.db, segment.g = 16, 0xFFFF_FFFF, 1, 1
        self.vcpu.set_sregs(sregs)
        self.set(rip=CODE, rsp=0x8000)

    def set(self, **values: int) -> None:
        """Set registers by name."""
        regs = self.vcpu.get_regs()
        for name, value in values.items():
            setattr(regs, name, value)
        self.vcpu.set_regs(regs)

    def handle(self, vector: int, code: str = "f4") -> int:
        """Give the guest a GDT, an IDT, and a handler for a vector; where that is."""
        at = HANDLERS + 16 * vector
        self.memory[IDT + 8 * vector : IDT + 8 * vector + 8] = (at | 0x8_0000 | 0x8E00 << 32).to_bytes(8, "little")
        data = bytes.fromhex(code)
        self.memory[at : at + len(data)] = data
        self.memory[GDT : GDT + 24] = bytes(8) + bytes.fromhex("ffff0000009bcf00 ffff00000093cf00")
        sregs = self.vcpu.get_sregs()
        sregs.idt.base, sregs.idt.limit, sregs.gdt.base, sregs.gdt.limit = IDT, 0x7FF, GDT, 23
        self.vcpu.set_sregs(sregs)
        return at

    @property
    def rip(self) -> int:
        """Where the guest is."""
        return self.vcpu.get_regs().rip
