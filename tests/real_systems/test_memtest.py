"""memtest86+, unmodified, on the PC and under vtx: its results are on the screen."""

from __future__ import annotations

import re

import pytest

from simvirt.guests.resolve import resolve
from tests.support.real_systems import DIRECTORY, MIB, Session, needs_real_systems

pytestmark = [
    needs_real_systems, pytest.mark.long, pytest.mark.xdist_group("real systems"), pytest.mark.timeout(1800),
]  # fmt: skip


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
@pytest.mark.parametrize(("image", "cpu"), [("memtest86+x64.bin", "x86-64"), ("memtest86+ia32.bin", "core2")])
def test_memtest_tests_the_memory_and_finds_no_error(image: str, cpu: str, strategy: str) -> None:
    session = Session(resolve(DIRECTORY / image), strategy, cpu, 8 * MIB)
    session.machine.board.type_keys("<Enter>")  # start testing, instead of waiting for five seconds
    text = session.run_until_screen(lambda text: re.search(r"Test #[2-9]", text) is not None)
    assert "Memtest86+ v6" in text
    assert re.search(r"CPU: 1 Cores 1 Threads", text)
    assert re.search(r"Errors: 0\s*$", text, re.MULTILINE)
    assert re.search(r"Memory *: *8(\.0)?MB", text)
