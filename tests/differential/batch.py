"""A memory image full of cases, ready for the bench."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.differential.layout import LOW_PARAMETERS, PARAMETERS

if TYPE_CHECKING:
    from tests.differential.generator import Case
    from tests.differential.layout import Mode


@dataclass(slots=True)
class Batch:
    """The image of one run, and the cases that are in it."""

    mode: Mode
    seed: int
    cases: list[Case]
    memory: dict[int, bytes]
    entry: int

    def from_case(self, number: int) -> dict[int, bytes]:
        """The memory for a run that begins with this case."""
        memory = dict(self.memory)
        for place in {PARAMETERS, LOW_PARAMETERS} & memory.keys():
            parameters = bytearray(memory[place])
            struct.pack_into("<i", parameters, _INDEX, number - 1)
            memory[place] = bytes(parameters)
        return memory

    def case_in(self, memory: bytes) -> int:
        """The case that a run has come to."""
        index: int = struct.unpack_from("<i", memory, self.parameters + _INDEX)[0]
        return index

    @property
    def parameters(self) -> int:
        """Where the bench keeps what changes."""
        return LOW_PARAMETERS if LOW_PARAMETERS in self.memory else PARAMETERS


_INDEX: Final = 8
