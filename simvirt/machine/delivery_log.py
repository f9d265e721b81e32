"""What a processor has delivered: how often each vector, the last exceptions, and whether an instruction ever retires.

Interrupts and exceptions are delivered in two places, by `Cpu.deliver` and, in the usual case, by native code that does
not come back to Python for it (native/delivery.c). Both write into the record that they share, and this is the view of
it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.native.layout import MAX_FAULTS, SharedRecord, word

if TYPE_CHECKING:
    from simvirt.machine.native.layout import FaultWords

FAULT_CHAIN_LENGTH: Final = MAX_FAULTS
"""Exceptions that a CPU remembers for a post-mortem."""
FRUITLESS_DELIVERIES: Final = 10_000
"""So many interrupts and exceptions in a row, and no instruction retired: after that nobody expects one any more."""
_NEVER: Final = (1 << 64) - 1
_LAST, _FRUITLESS, _LIMIT = word("last_delivery"), word("fruitless"), word("fruitless_limit")
_DELIVERED, _FAULTS = word("delivered"), word("fault_count")


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """One exception that the processor began to deliver: a link of the chain that a post-mortem prints."""

    instruction: int
    """Instructions retired before it."""
    vector: int
    error_code: int | None
    cr2: int | None
    selector: int
    rip: int
    cpl: int


class DeliveryLog:
    """The deliveries of one CPU."""

    def __init__(self, record: SharedRecord) -> None:
        self._record = record
        self._words: memoryview = memoryview(record).cast("B").cast("Q")
        self._chain: deque[FaultRecord] = deque(maxlen=FAULT_CHAIN_LENGTH)
        self._seen = 0
        self._words[_LIMIT] = FRUITLESS_DELIVERIES
        self.forget_count()

    @property
    def fault_chain(self) -> deque[FaultRecord]:
        """The exceptions delivered last, the newest at the end."""
        total = self._words[_FAULTS]
        for number in range(max(self._seen, total - MAX_FAULTS), total):
            self._chain.append(_record(self._record.faults[number % MAX_FAULTS]))
        self._seen = total
        return self._chain

    @property
    def by_vector(self) -> dict[int, int]:
        """How often each vector has been delivered, those that never were left out."""
        counts = self._words[_DELIVERED : _DELIVERED + 256]
        return {vector: count for vector, count in enumerate(counts) if count}

    def begin(self, count: int) -> bool:
        """A delivery begins after `count` instructions.

        :return: False when `FRUITLESS_DELIVERIES` have gone before it and no instruction has retired since.
        """
        words = self._words
        if words[_LAST] != count:
            words[_LAST], words[_FRUITLESS] = count, 0
        words[_FRUITLESS] += 1
        return words[_FRUITLESS] <= FRUITLESS_DELIVERIES

    def complete(self, vector: int) -> None:
        """The handler of `vector` has been entered."""
        self._words[_DELIVERED + vector] += 1

    def forget_count(self) -> None:
        """The count of instructions has been set anew."""
        self._words[_LAST] = _NEVER


def _record(words: FaultWords) -> FaultRecord:
    return FaultRecord(
        words.count,
        words.vector,
        words.error_code if words.has_error_code else None,
        words.cr2 if words.has_cr2 else None,
        words.selector,
        words.rip,
        words.cpl,
    )
