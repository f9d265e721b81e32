"""Where Unicorn's other processors do otherwise than the manuals: docs/deviations.md, line by line."""

from __future__ import annotations

from typing import Any

import pytest
import unicorn
from unicorn import m68k_const, riscv_const

from simvirt.analyzer.cores import description, processors
from simvirt.analyzer.cores.processor import CODE, DATA_NAME, DATA_SIZE
from simvirt.analyzer.cores.riscv import Rv64
from simvirt.analyzer.model.outcome import Completed, Outcome, Trapped
from simvirt.analyzer.model.state import State, Value


def start(name: str, **changed: Value) -> State:
    return {**description.load(name).machine.start, DATA_NAME: bytes(DATA_SIZE), **changed}


def execute(name: str, form: str, state: State) -> Outcome:
    machine = processors.machine(name)
    return machine.execute(machine.form(form), state)


def test_move_from_sr_does_not_trap_on_the_engine_s_68020() -> None:
    engine = unicorn.Uc(unicorn.UC_ARCH_M68K, unicorn.UC_MODE_BIG_ENDIAN, m68k_const.UC_CPU_M68K_M68020)
    engine.mem_map(0, 0x100000)
    engine.mem_write(CODE, bytes.fromhex("40c0"))
    engine.reg_write(m68k_const.UC_M68K_REG_SR, 0x0004)
    interrupts: list[int] = []

    def note(uc: Any, number: int, _: Any) -> None:
        interrupts.append(number)
        uc.emu_stop()

    engine.hook_add(unicorn.UC_HOOK_INTR, note)
    engine.emu_start(CODE, CODE + 2, 0, 1)
    assert interrupts == []
    assert engine.reg_read(m68k_const.UC_M68K_REG_D0) & 0xFFFF == 0x0004


@pytest.mark.parametrize(
    ("name", "form", "mode"),
    [
        ("m68k", "m68k:rtr", "SR.S"),
        ("riscv64", "riscv64:ebreak", "mode"),
        ("riscv64", "riscv64:rdtime-a0", "mode"),
    ],
)
def test_what_the_engine_does_not_have(name: str, form: str, mode: str) -> None:
    told = description.load(name).machine
    machine = processors.machine(name)
    assert machine.form(form).not_executed
    for value in (*told.privileged, told.user):
        outcome = execute(name, form, start(name, **{mode: value}))
        assert isinstance(outcome, Trapped)
        assert outcome.trap.name.startswith("illegal")


def test_scounteren_is_not_looked_at() -> None:
    denied: dict[str, Value] = {"mode": "U", "scounteren.CY": 0}
    assert isinstance(execute("riscv64", "riscv64:rdcycle-a0", start("riscv64", **denied)), Completed)


def test_tw_and_tsr_are_where_the_engine_has_them() -> None:
    engine = Rv64(description.load("riscv64")).open()
    for bit, is_kept in ((21, False), (22, False), (29, True), (30, True)):
        engine.reg_write(riscv_const.UC_RISCV_REG_MSTATUS, 1 << bit)
        assert bool(engine.reg_read(riscv_const.UC_RISCV_REG_MSTATUS) >> bit & 1) is is_kept, bit
    assert isinstance(execute("riscv64", "riscv64:sret", start("riscv64")), Completed)
    trapped = execute("riscv64", "riscv64:sret", start("riscv64", **{"mstatus.TSR": 1}))
    assert isinstance(trapped, Trapped)
