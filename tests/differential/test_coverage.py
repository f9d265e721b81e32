"""What the generator of random instructions leaves out, and what a report of coverage says."""

from __future__ import annotations

from pathlib import Path

import iced_x86
import pytest

from tests.differential import machines
from tests.differential.comparison import Trail, make_batch
from tests.differential.coverage import Coverage, form_name, forms_of_the_model
from tests.differential.encodings import templates, why_left_out
from tests.differential.layout import Bench, Mode


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_every_form_of_the_model_can_be_generated_or_has_a_reason(bits: int) -> None:
    reached = set()
    for choices in templates(bits).values():
        for template in choices[:2]:
            modrm = b"" if template.modrm is None else bytes((template.modrm | (5 if template.is_memory else 0),))
            for more in (b"", b"\x67", b"\x66", b"\x67\x66") if template.opcode[0] != 0xC4 else (b"",):
                for rex in (b"", b"\x48") if bits == 64 and template.opcode[0] != 0xC4 else (b"",):
                    code = more + template.prefix + rex + template.opcode + modrm + bytes(12)
                    reached.add(form_name(iced_x86.Decoder(bits, code).decode()))
    missing = {
        name
        for name, form in forms_of_the_model(bits).items()
        if name not in reached and not why_left_out(form, kernel=False)
    }
    assert not missing


def test_a_report(tmp_path: Path) -> None:
    """Two hundred cases reach some hundred forms; each is counted once, as executed, never or left out."""
    bench = Bench.build(tmp_path, Path(__file__).with_name("bench.S"))
    batch = make_batch(bench, Mode.REAL, 7, 200)
    coverage = Coverage()
    coverage.add(batch, Trail.of(batch, lambda memory: machines.run_here(memory, batch.entry)).log)
    executed, missing, left_out = coverage.forms("real")
    assert len(executed) > 100
    assert executed | missing | left_out.keys() == forms_of_the_model(16).keys()
    assert not executed & missing
    assert coverage.report()[0].startswith(f"real: {len(executed)} of {len(forms_of_the_model(16))} encoding forms")
    assert coverage.prefixes["real", "66"] > 10
