from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from simvirt.cli.values import address, instruction_count, positive_count, whole_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("10000000000", 10**10),
        ("10_000", 10_000),
        ("1e6", 10**6),
        ("1E10", 10**10),
        ("2M", 2 * 10**6),
        ("1.5k", 1500),
        ("3g", 3 * 10**9),
        (" 7 ", 7),
    ],
)
def test_counts(text: str, value: int) -> None:
    assert instruction_count(text) == value


@pytest.mark.parametrize(
    "text", ["", "-1", "many", "1.5", "1e99", "0x10", "1__0", "_1", "1e-3", "1MiB", "9" * 30, "nan", "inf"]
)
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"instructions|reach"):
        instruction_count(text)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="at least 1"):
        positive_count("0")


def test_addresses_are_hexadecimal() -> None:
    assert address("100000") == address("0x100000") == 0x100000
    for text in ("", "main", "-1", "1" + "0" * 16):
        with pytest.raises(ArgumentTypeError, match="address"):
            address(text)


def test_whole_numbers() -> None:
    assert whole_number("12") == 12
    for text in ("1.5", "x", "-3"):
        with pytest.raises(ArgumentTypeError):
            whole_number(text)
