"""An interface like Linux's /dev/kvm, on this PC's VMX: for whoever knows KVM, or wants to write a VMM.

>>> from simvirt.kvm import Exit, Kvm
>>> kvm = Kvm(memory=8 << 20)
>>> kvm.get_api_version()
12
>>> vm, memory = kvm.create_vm(), kvm.mmap(0x1000)
>>> memory[0:6] = bytes.fromhex("b041 e6e9 f4 90")  # mov al, 'A'; out 0xe9, al; hlt
>>> vm.set_user_memory_region(0, 0x1000, len(memory), memory.address)
>>> vcpu = vm.create_vcpu()
>>> sregs = vcpu.get_sregs()
>>> sregs.cs.base = sregs.cs.selector = 0
>>> vcpu.set_sregs(sregs)
>>> regs = vcpu.get_regs()
>>> regs.rip = 0x1000
>>> vcpu.set_regs(regs)
>>> vcpu.run().name, hex(vcpu.kvm_run.io.port), bytes(vcpu.kvm_run.io.data)
('IO', '0xe9', b'A')
>>> vcpu.run().name
'HLT'
"""

from simvirt.kvm.errors import KvmError
from simvirt.kvm.numbers import Cap, Exit, GuestDebugControl, InternalError, IoDirection, MemoryFlags
from simvirt.kvm.structures import (
    CpuidEntry,
    Debug,
    Dtable,
    GuestDebug,
    Io,
    Mmio,
    Regs,
    Run,
    Segment,
    Sregs,
    Translation,
)
from simvirt.kvm.system import Kvm, UserMemory, Vm
from simvirt.kvm.vcpu import Vcpu

__all__ = [
    "Cap", "CpuidEntry", "Debug", "Dtable", "Exit", "GuestDebug", "GuestDebugControl", "InternalError", "Io",
    "IoDirection", "Kvm", "KvmError", "MemoryFlags", "Mmio", "Regs", "Run", "Segment", "Sregs", "Translation",
    "UserMemory", "Vcpu", "Vm",
]  # fmt: skip
