"""How many guest instructions lie between an exit and the next: the question of Agesen et al. 2012, Figure 5.

Exits come in clusters, and a VMM that handles several at one exit saves the round trips between them. The paper's VMM
scans up to 16 instructions ahead of an exit for the next one (Agesen, Mattson, Rugina, Sheldon, "Software Techniques
for Avoiding Hardware Virtualization Exits", USENIX ATC 2012).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CLUSTER_REACH: Final = 16
"""Instructions that the paper's VMM scans ahead of an exit."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Exits whose distance from the exit before lies between two numbers, both included."""

    first: int
    last: int
    exits: int

    def __str__(self) -> str:
        return f"{self.first:,}" if self.first == self.last else f"{self.first:,} to {self.last:,}"


@dataclass(frozen=True, slots=True)
class ExitDistances:
    """How often each distance was seen.

    A distance of 1 is two exits back to back; one of 0 are two exits of the same instruction.

    >>> distances = ExitDistances(Counter({1: 3, 5: 1, 8: 2, 100: 4}))
    >>> [(str(bucket), bucket.exits) for bucket in distances.buckets() if bucket.exits]
    [('1', 3), ('5 to 8', 3), ('65 to 128', 4)]
    >>> distances.clustered
    0.6
    """

    by_distance: Mapping[int, int]

    @property
    def total(self) -> int:
        """Exits that had another before them."""
        return sum(self.by_distance.values())

    @property
    def clustered(self) -> float:
        """Share of exits within the reach of the exit before, by which a VMM could have handled both at once."""
        near = sum(exits for distance, exits in self.by_distance.items() if distance <= CLUSTER_REACH)
        return near / self.total if self.total else 0.0

    def buckets(self) -> tuple[Bucket, ...]:
        """The histogram: 0, 1, 2, then up to each power of two, to the greatest distance."""
        if not self.by_distance:
            return ()
        counts = Counter[int]()
        for distance, exits in self.by_distance.items():
            counts[_bucket(distance)] += exits
        return tuple(Bucket(*_bounds(index), counts[index]) for index in range(max(counts) + 1))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "clustered": self.clustered,
            "buckets": [{"first": each.first, "last": each.last, "exits": each.exits} for each in self.buckets()],
        }


def _bucket(distance: int) -> int:
    return distance if distance <= 1 else (distance - 1).bit_length() + 1


def _bounds(bucket: int) -> tuple[int, int]:
    return (bucket, bucket) if bucket <= 1 else ((1 << bucket - 2) + 1, 1 << bucket - 1)
