"""A standing order: a periodic interrupt that the processor takes without asking the devices each time.

A timer that ticks a thousand times a second and more asks for the same thing every time: an edge, the acknowledge
cycle, the handler, one end-of-interrupt command. While nothing else is pending or in service, each of these can be
foretold. The interrupt controllers then say so (`InterruptSystem.standing_order`). A processor that runs the guest
without a VMM in between may carry the order out in native code (native/standing_order.c), and tells the devices
afterwards how often it did, and whether the last interrupt has been ended (`InterruptSystem.carried_out`). They are
then in the state that they would have come to step by step, at the same instructions.

Whatever touches a device, or comes due there, ends the order. It is no part of any state that outlives a run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Rises:
    """When the line of a periodic source rises, if nobody touches it: CLK pulses, counted from power-on."""

    pulse: int
    """The next one at which it rises."""
    period: int
    """Pulses from one to the next."""
    hz: int
    """CLK."""
    until_ns: int | None
    """When something else is due first; None when nothing is."""


@dataclass(slots=True)
class StandingOrder:
    """What the processor may do by itself."""

    irq: int
    vector: int
    rises: Rises
    in_service: bool
    """Is the handler of the last interrupt still at work? Until its end none may be taken."""
    end_port: int
    end_value: int
    """Writing this byte to that port is the end of the interrupt."""
