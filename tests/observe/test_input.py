"""Console input: it arrives, in order and whole, at the same instruction whoever runs the guest."""

from __future__ import annotations

from typing import Any

import pytest

from simvirt.errors import UsageError
from simvirt.guests.flat import flat_image
from simvirt.machine.machine import Outcome
from simvirt.observe.comparison import Equivalence
from simvirt.observe.session import compare, run
from simvirt.strategies.registry import STRATEGIES
from tests.support.console_guests import codes_by_polling, echo_by_interrupts, echo_by_polling, ticking_echo

SMALL: Any = {"memory": "4M", "max_instructions": 5_000_000}
STRATEGY_NAMES = [strategy.info.name for strategy in STRATEGIES]


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
@pytest.mark.parametrize(
    "code", [echo_by_interrupts(), echo_by_interrupts(0), echo_by_interrupts(0xC1), echo_by_polling()]
)
def test_input_is_echoed_whole(strategy: str, code: bytes) -> None:
    text = "The quick brown fox jumps over the lazy dog.\n" * 3 + "Grüße, q"
    text = text.replace("q", "k", 3)
    result = run(flat_image(code, "echo"), strategy, input=text, **SMALL)
    assert (result.outcome, result.console, result.guest_status) == (Outcome.FINISHED, text, 5)


def test_without_more_input_a_sleeping_guest_waits_for_it() -> None:
    result = run(flat_image(echo_by_interrupts(), "echo"), input=b"abc", **SMALL)
    assert (result.outcome, result.console) == (Outcome.WAITING_FOR_INPUT, "abc")


@pytest.mark.parametrize("code", [echo_by_interrupts(), ticking_echo()])
def test_every_strategy_gets_it_at_the_same_instruction(code: bytes) -> None:
    comparison = compare(flat_image(code, "echo"), memory="4M", max_instructions=500_000, input="hello q")
    assert {verdict.equivalence for verdict in comparison.verdicts.values()} == {Equivalence.EQUIVALENT}
    assert len({result.counted.instructions for result in comparison.runs}) == 1
    assert comparison.runs[0].console == "hello q"


def test_keys_reach_a_guest_that_polls() -> None:
    result = run(flat_image(codes_by_polling(6), "codes"), keys="a<Right>", **SMALL)
    assert result.console_bytes == bytes((0x1E, 0x9E, 0xE0, 0x4D, 0xE0, 0xCD))


def test_what_cannot_be_typed_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="no key is called"):
        run("hello", keys="<Nonsense>")
