"""One 8259A programmable interrupt controller.

Written from Intel's data sheet "8259A Programmable Interrupt Controller" (order number 231468); the section titles in
this file are its own. An 8259A holds three registers: the requests (IRR), the levels in service (ISR) and the mask
(IMR). INT is high while an unmasked request has a higher priority than everything in service. INTA, the processor's
acknowledge cycle, moves the request to ISR and gives its vector; the guest's end-of-interrupt command (EOI) clears it
there.

A request must be held until it is acknowledged ("Edge and Level Triggered Modes"): if the line falls before that, the
request is withdrawn, in edge triggered mode as well. (Some emulators latch the edge for good. The chip does not.)

Chip sets since the EISA bus have a register beside each 8259A that makes single inputs level triggered
(`level_triggered`; Intel 82371SB data sheet, "ELCR1 - Edge/Level Triggered Register").

What the data sheet leaves open, and how it stands here: after power-on, and until an initialization sequence ICW1 to
ICW4 has been completed, INT stays low; the mask is zero. ICW1 also clears ISR and the pending requests. Deviation:
the MCS-80/85 mode (ICW4 bit 0 clear) is treated as 8086 mode, as the three-byte CALL that it supplies means nothing
to an x86.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable


class InitStage(IntEnum):
    """Which initialization command word the chip waits for; `NONE` outside an initialization sequence."""

    NONE = 0
    ICW2 = 2
    ICW3 = 3
    ICW4 = 4


# "Initialization Command Words": ICW1, written at A0 = 0 with bit 4 set, and ICW4.
ICW1_IC4: Final = 0x01
ICW1_SNGL: Final = 0x02
ICW1_LTIM: Final = 0x08
ICW1_SELECT: Final = 0x10
ICW4_AEOI: Final = 0x02
ICW4_SFNM: Final = 0x10
# "Operation Command Words": OCW2 is three command bits and a level; OCW3 is told from it by bit 3.
OCW2_EOI: Final = 0x20
OCW2_SL: Final = 0x40
OCW2_R: Final = 0x80
OCW3_SELECT: Final = 0x08
OCW3_RIS: Final = 0x01
OCW3_RR: Final = 0x02
OCW3_POLL: Final = 0x04
OCW3_SMM: Final = 0x20
OCW3_ESMM: Final = 0x40
POLL_INTERRUPT: Final = 0x80

SPURIOUS_LEVEL: Final = 7
"""The level that an acknowledge without a request gets ("default IR7")."""


@dataclass(frozen=True, slots=True)
class PicChipState:
    """All that one 8259A knows."""

    lines: int
    irr: int
    isr: int
    imr: int
    lowest: int
    icw1: int
    vector_base: int
    icw3: int
    icw4: int
    stage: int
    ready: bool
    read_isr: bool
    poll: bool
    special_mask: bool
    rotate_on_aeoi: bool
    int_output: bool
    level_triggered: int


class Pic8259:
    """One 8259A. `on_int` is told when its INT output changes.

    Raises nothing: every byte means something to the chip.
    """

    __slots__ = (
        "_icw1",
        "_icw3",
        "_icw4",
        "_imr",
        "_irr",
        "_isr",
        "_level_inputs",
        "_level_triggered",
        "_lines",
        "_lowest",
        "_on_int",
        "_poll",
        "_read_isr",
        "_ready",
        "_rotate_on_aeoi",
        "_special_mask",
        "_stage",
        "int_output",
        "vector_base",
    )

    def __init__(self, on_int: Callable[[bool], None]) -> None:
        self._on_int = on_int
        self.int_output = False
        """The level of the INT output."""
        self.reset()

    def reset(self) -> None:
        """Power-on: nothing requested or in service, waiting for initialization; the chip has no reset pin."""
        self._lines = self._irr = self._isr = self._imr = self._level_triggered = 0
        self._lowest = 7
        self._icw1 = self._icw3 = self._icw4 = self._level_inputs = 0
        self.vector_base = 0
        """T7-T3 of ICW2: a level's vector is this and the level."""
        self._stage = InitStage.NONE
        self._ready = self._read_isr = self._poll = self._special_mask = self._rotate_on_aeoi = False
        self._update()

    def set_line(self, level: int, high: bool) -> None:
        """Drive the input IR`level`. A rising edge makes a request, a falling one withdraws it."""
        bit = 1 << level
        if high:
            if self._lines & bit:
                return
            self._lines |= bit
            self._irr |= bit
        else:
            if not self._lines & bit:
                return
            self._lines &= ~bit
            if not (self._irr | self._level_inputs) & bit:
                return  # acknowledged already
            self._irr &= ~bit
        self._update()

    @property
    def level_triggered(self) -> int:
        """A bit for each input that is level triggered whatever ICW1 says: the edge/level control register."""
        return self._level_triggered

    @level_triggered.setter
    def level_triggered(self, inputs: int) -> None:
        self._level_triggered = inputs
        self._follow_trigger_modes()
        self._update()

    def edge_triggered(self, level: int) -> bool:
        """Does a request at this input take a rising edge? Else a line that is high requests by being so."""
        return not self._level_inputs >> level & 1

    def has_slave(self, level: int) -> bool:
        """Whether this master was told, by ICW1 and ICW3, that a slave sits at this input."""
        return not self._icw1 & ICW1_SNGL and bool(self._icw3 >> level & 1)

    def slave_id(self) -> int:
        """The master's input at which this slave was told, by ICW3, that it sits."""
        return self._icw3 & 7

    def serves_alone(self, level: int) -> bool:
        """Is nothing but this level requested or in service, would its next edge raise INT, and one EOI end it?"""
        bit = 1 << level
        others = self._irr & ~self._imr | self._isr & ~bit | (self._imr | self._level_inputs) & bit
        special = self._special_mask or self._icw4 & ICW4_AEOI or self.has_slave(level)
        return self._ready and not (others or special or self.int_output)

    def in_service(self, level: int) -> bool:
        """Has a request at this level been acknowledged and not ended?"""
        return bool(self._isr >> level & 1)

    def set_in_service(self, level: int, served: bool) -> None:
        """Requests at this level, which `serves_alone`, have been acknowledged and ended, but perhaps the last one."""
        self._isr = 1 << level if served else 0

    def can_deliver(self, level: int) -> bool:
        """Whether a request at this level, were it made now, would raise INT."""
        return self._ready and self._winner(1 << level) is not None

    def accept(self) -> int | None:
        """INTA (or a poll's read): move the highest request to ISR and lower INT; None when there is none.

        `finish` must follow, when the acknowledge is over.
        """
        level = self._winner(self._requests() if self._level_inputs else self._irr) if self._ready else None
        if level is not None:
            self._isr |= 1 << level
            self._irr &= ~(1 << level)
        # INT falls with every acknowledge, also when more is pending: the master may be edge triggered.
        if self.int_output:
            self.int_output = False
            self._on_int(False)
        return level

    def finish(self, level: int | None) -> None:
        """The end of the last INTA pulse: automatic EOI where it is on ("Automatic End of Interrupt Mode")."""
        if level is not None and self._icw4 & ICW4_AEOI:
            self._isr &= ~(1 << level)
            if self._rotate_on_aeoi:
                self._lowest = level
        if self._irr or self._level_inputs:  # else nothing is left that could raise INT
            self._update()

    def read(self, a0: int) -> int:
        """RD: the poll word after a poll command; else at A0 = 1 the mask, at A0 = 0 IRR or ISR as OCW3 chose."""
        if self._poll:
            self._poll = False
            level = self.accept()
            self.finish(level)
            return POLL_INTERRUPT | level if level is not None else 0
        if a0:
            return self._imr
        return self._isr if self._read_isr else self._requests()

    def write(self, a0: int, value: int) -> None:
        """WR: an initialization or operation command word, told apart by A0, by bits 4 and 3, and by the stage."""
        if not a0:
            if value & ICW1_SELECT:
                self._begin_initialization(value)
            elif value & OCW3_SELECT:
                self._ocw3(value)
            else:
                self._ocw2(value)
        elif self._stage is InitStage.NONE:
            self._imr = value
        else:
            self._initialize(value)
        if self._irr or self._level_inputs or self.int_output:  # else INT is low and stays so
            self._update()

    def save(self) -> PicChipState:
        """Everything, as a value."""
        return PicChipState(
            lines=self._lines,
            irr=self._irr,
            isr=self._isr,
            imr=self._imr,
            lowest=self._lowest,
            icw1=self._icw1,
            vector_base=self.vector_base,
            icw3=self._icw3,
            icw4=self._icw4,
            stage=int(self._stage),
            ready=self._ready,
            read_isr=self._read_isr,
            poll=self._poll,
            special_mask=self._special_mask,
            rotate_on_aeoi=self._rotate_on_aeoi,
            int_output=self.int_output,
            level_triggered=self._level_triggered,
        )

    def restore(self, state: PicChipState) -> None:
        """Take up a saved state without driving INT."""
        self._lines = state.lines
        self._irr = state.irr
        self._isr = state.isr
        self._imr = state.imr
        self._lowest = state.lowest
        self._icw1 = state.icw1
        self.vector_base = state.vector_base
        self._icw3 = state.icw3
        self._icw4 = state.icw4
        self._stage = InitStage(state.stage)
        self._ready = state.ready
        self._read_isr = state.read_isr
        self._poll = state.poll
        self._special_mask = state.special_mask
        self._rotate_on_aeoi = state.rotate_on_aeoi
        self.int_output = state.int_output
        self._level_triggered = state.level_triggered
        self._follow_trigger_modes()

    def _follow_trigger_modes(self) -> None:
        """Which inputs are level triggered now, by ICW1 or by the register beside the chip."""
        self._level_inputs = 0xFF if self._icw1 & ICW1_LTIM else self._level_triggered

    def _requests(self) -> int:
        """IRR: of level triggered inputs the lines themselves, else the edges not yet acknowledged."""
        levels = self._level_inputs
        return self._lines & levels | self._irr & ~levels

    def _winner(self, requests: int) -> int | None:
        """The priority resolver: the level that may interrupt now, or None."""
        requests &= ~self._imr
        if not requests:
            return None
        in_service = self._isr
        if self._special_mask:
            # "Special Mask Mode": a level that is in service and masked holds nobody back.
            in_service &= ~self._imr
        # Turn both so that bit 0 has the highest priority; then the lowest set bit wins.
        top = self._lowest + 1
        turned = (requests << 8 | requests) >> top & 0xFF
        turned &= -turned
        if in_service:
            serving = (in_service << 8 | in_service) >> top & 0xFF
            serving &= -serving
            if turned > serving:
                return None
            if turned == serving:
                level = turned.bit_length() - 1 + top & 7
                # "Special Fully Nested Mode": a slave in service is not locked out from the master.
                return level if self._icw4 & ICW4_SFNM and self.has_slave(level) else None
        return turned.bit_length() - 1 + top & 7

    def _update(self) -> None:
        """Drive INT: is there a request that may interrupt now?"""
        requests = (self._requests() if self._level_inputs else self._irr) & ~self._imr
        # While nothing is in service any request will do, so that the priority resolver need not be asked.
        high = self._ready and requests != 0 and (not self._isr or self._winner(requests) is not None)
        if high is not self.int_output:
            self.int_output = high
            self._on_int(high)

    def _begin_initialization(self, icw1: int) -> None:
        """ICW1 resets the chip ("Initialization Command Words 1 and 2", items a to f) and starts the sequence."""
        self._icw1 = icw1
        self._follow_trigger_modes()
        self._irr = self._isr = self._imr = 0
        self._lowest = 7
        self._icw3 = 7
        if not icw1 & ICW1_IC4:
            self._icw4 = 0
        self._read_isr = self._poll = self._special_mask = self._rotate_on_aeoi = self._ready = False
        self._stage = InitStage.ICW2

    def _initialize(self, value: int) -> None:
        """ICW2 to ICW4 (figure "Initialization Sequence"): ICW3 only in cascade, ICW4 only if ICW1 announced it."""
        if self._stage is InitStage.ICW2:
            self.vector_base = value & 0xF8
            following = InitStage.ICW4 if self._icw1 & ICW1_SNGL else InitStage.ICW3
        elif self._stage is InitStage.ICW3:
            self._icw3 = value
            following = InitStage.ICW4
        else:
            self._icw4 = value
            following = InitStage.NONE
        if following is InitStage.ICW4 and not self._icw1 & ICW1_IC4:
            following = InitStage.NONE
        self._stage = following
        self._ready = following is InitStage.NONE

    def _ocw2(self, value: int) -> None:
        """End of interrupt and rotation; the eight commands of R, SL and EOI."""
        if not value & OCW2_EOI:
            if value & OCW2_SL:
                if value & OCW2_R:
                    self._lowest = value & 7  # set priority command
            else:
                self._rotate_on_aeoi = bool(value & OCW2_R)
            return
        if value & OCW2_SL:
            level = value & 7
            self._isr &= ~(1 << level)
        else:
            # A non-specific EOI clears the highest level in service, but in special mask mode none that is masked.
            served = self._isr & ~self._imr if self._special_mask else self._isr
            if not served:
                return
            top = self._lowest + 1
            turned = (served << 8 | served) >> top & 0xFF
            level = (turned & -turned).bit_length() - 1 + top & 7
            self._isr &= ~(1 << level)
        if value & OCW2_R:
            self._lowest = level

    def _ocw3(self, value: int) -> None:
        if value & OCW3_ESMM:
            self._special_mask = bool(value & OCW3_SMM)
        if value & OCW3_RR:
            self._read_isr = bool(value & OCW3_RIS)
        self._poll = bool(value & OCW3_POLL)
