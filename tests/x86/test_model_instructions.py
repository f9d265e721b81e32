"""Instructions that a CPU model does not claim are #UD, and those that it claims are not, by the decoder library.

The library's table says which feature brought each encoding form; nothing of the project's own tables enters.
"""

from __future__ import annotations

from functools import cache

import pytest

from simvirt.machine.events import Event, ExceptionRaised
from simvirt.x86.cpuid import CPU_MODELS, CpuModel, Feature, find_cpu_model
from simvirt.x86.exceptions import Vector
from simvirt.x86.forms import Encoding, Operands, encoding_forms
from tests.support.pc import CODE, DATA, STACK, Pc, flat_pc, long_pc

KNOWN = {
    "CMOV": Feature.CMOV, "CX8": Feature.CX8, "CMPXCHG16B": Feature.CX16, "SEP": Feature.SEP, "MMX": Feature.MMX,
    "SSE": Feature.SSE, "SSE2": Feature.SSE2, "SSE3": Feature.SSE3, "SSSE3": Feature.SSSE3, "SSE4_1": Feature.SSE4_1,
    "SSE4_2": Feature.SSE4_2, "POPCNT": Feature.POPCNT, "AES": Feature.AES, "PCLMULQDQ": Feature.PCLMULQDQ,
    "MOVBE": Feature.MOVBE, "FXSR": Feature.FXSR, "CLFSH": Feature.CLFSH, "BMI1": Feature.BMI1, "BMI2": Feature.BMI2,
    "ADX": Feature.ADX, "FSGSBASE": Feature.FSGSBASE, "SMAP": Feature.SMAP, "RDTSCP": Feature.RDTSCP,
}  # fmt: skip
ENCODINGS = (Encoding.LEGACY, Encoding.VEX)
NOT_RUN = ("rdtscp", "sysenter", "tzcnt", "prefetchnta", "prefetcht0", "prefetcht1", "prefetcht2")
"""Events that `completion` makes #UD of (test_completion.py, test_system_calls.py); BSF; hints, once NOPs."""


@cache
def bench(bits: int, model: str) -> tuple[Pc, bytes]:
    pc = long_pc(cpu_model=model) if bits == 64 else flat_pc(cpu_model=model)
    pc.engine.follow_model(pc.bus.cpu_model)
    pc.state.set_control_register(4, pc.state.cr4 | 0x600 | (1 << 16 if pc.bus.cpu_model.has(Feature.FSGSBASE) else 0))
    pc.state.refresh()
    return pc, pc.engine.save_image()


def outcome(pc: Pc, image: bytes, code: bytes) -> Event:
    """What the instruction comes to."""
    pc.engine.restore_image(image)
    pc.write(CODE, code + b"\x90" * 4)
    pc.cpu.count = 0
    return pc.cpu.run(1)


FORMS = [
    form
    for form in encoding_forms()
    if form.encoding in ENCODINGS
    and form.features
    and set(form.features) <= set(KNOWN)
    and form.mnemonic not in NOT_RUN
]


@pytest.mark.parametrize("model", CPU_MODELS.values(), ids=lambda model: model.name)
@pytest.mark.parametrize("bits", [32, 64])
def test_instructions_are_those_of_the_model(bits: int, model: CpuModel) -> None:
    pc, image = bench(bits, model.name)
    wrong = []
    tried = 0
    for form in FORMS:
        if not form.exists_in(bits):
            continue
        has = all(model.has(KNOWN[feature]) for feature in form.features)
        for encoded in form.encode(bits, Operands(ip=CODE, memory=DATA & 0xFFF0, immediate=1)):
            event = outcome(pc, image, encoded.code)
            undefined = isinstance(event, ExceptionRaised) and event.vector is Vector.UD
            tried += 1
            if undefined == has:
                wrong.append(f"{form.name} {encoded.code.hex()}: {event}")
    assert tried > 100
    assert wrong == []


@pytest.mark.parametrize(("code", "model", "result"), [
    ("f30fbdc1", "core2", 11), ("f30fbdc1", "x86-64", 20), ("f30fbcc1", "core2", 4), ("f30fbcc1", "x86-64", 4),
])  # fmt: skip
def test_counting_zeros_is_scanning_for_a_bit_where_it_does_not_exist(code: str, model: str, result: int) -> None:
    pc, image = bench(32, model)
    pc.engine.restore_image(image)
    pc.state[1], pc.state[0] = 0xFF0, 0x5555_5555
    pc.write(CODE, bytes.fromhex(code))
    pc.step()
    assert pc.state[0] == result
    pc.state[1], pc.state[0], pc.state.rip = 0, 0x5555_5555, CODE
    pc.step()
    assert pc.state[0] == (0x5555_5555 if model == "core2" else 32)
    assert pc.state.rip == CODE + 4


def test_two_models_on_one_engine() -> None:
    """A world switch takes the model's instructions along."""
    pc = flat_pc(cpu_model="x86-64")
    pc.engine.follow_model(find_cpu_model("x86-64"))
    pc.write(CODE, bytes.fromhex("f30fb8c1 90"))
    able = pc.engine.save_world()
    pc.engine.follow_model(find_cpu_model("pentium"))
    unable = pc.engine.save_world()
    for _ in range(2):
        pc.engine.load_world(able)
        assert not isinstance(pc.cpu.run(1), ExceptionRaised)
        pc.engine.load_world(unable)
        assert pc.cpu.run(1) == ExceptionRaised(Vector.UD)
    assert pc.state.rsp == STACK
