"""The interruptibility state tells the shadows of STI and MOV SS apart (SDM Vol. 3C §25.4.2, Table 25-3)."""

from __future__ import annotations

import pytest

from simvirt.x86.registers import GeneralRegister
from tests.support.vmx_rig import F, Rig


@pytest.mark.parametrize(
    ("code", "flags", "state"),
    [(b"\x8e\xd0\x90", 0x202, 2), (b"\x8e\xd0\x90", 2, 2), (b"\xfb\x90", 2, 1), (b"\xfb\x90", 0x202, 0)],
)
def test_whose_shadow(code: bytes, flags: int, state: int) -> None:
    rig = Rig()
    rig.register(GeneralRegister.RAX, 0x10)
    rig.vmcs.write(F.GUEST_RFLAGS, flags)
    rig.run(code, limit=1)
    assert rig.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == state
