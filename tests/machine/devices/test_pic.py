"""The 8259A pair, from Intel's data sheet 231468; section titles in the tests are its own."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.errors import MonitorError
from simvirt.machine.devices.pic import FLOATING_VECTOR, Irq, PicPair, PicPairState

MASTER, MASTER_DATA, SLAVE, SLAVE_DATA = range(4)
BASE: Final = 0x20
SLAVE_BASE: Final = 0x28
EOI: Final = 0x20
LTIM, SNGL, IC4 = 0x08, 0x02, 0x01
AEOI, SFNM = 0x02, 0x10


class Bench:
    """A pair with its INTR pin's history."""

    def __init__(self, icw1: int = 0x11, icw4: int = 0x01, slave_id: int = 2, slaves: int = 0x04) -> None:
        self.intr: list[bool] = []
        self.pic = PicPair(self.intr.append)
        self.initialize(icw1, icw4, slave_id, slaves)

    def initialize(self, icw1: int, icw4: int, slave_id: int = 2, slaves: int = 0x04) -> None:
        for chip, base, icw3 in ((MASTER, BASE, slaves), (SLAVE, SLAVE_BASE, slave_id)):
            self.write(chip, 0x10 | icw1)
            self.write(chip + 1, base)
            if not icw1 & SNGL:
                self.write(chip + 1, icw3)
            if icw1 & IC4:
                self.write(chip + 1, icw4)

    def write(self, offset: int, value: int) -> None:
        self.pic.write(offset, 1, value)

    def read(self, offset: int) -> int:
        return self.pic.read(offset, 1)

    def raise_(self, *irqs: int) -> None:
        for irq in irqs:
            self.pic.set_line(irq, True)

    def lower(self, *irqs: int) -> None:
        for irq in irqs:
            self.pic.set_line(irq, False)

    def irr(self, chip: int = MASTER) -> int:
        self.write(chip, 0x0A)
        return self.read(chip)

    def isr(self, chip: int = MASTER) -> int:
        self.write(chip, 0x0B)
        return self.read(chip)

    def delivered(self) -> list[int]:
        """Acknowledge as long as INTR is high, without any EOI."""
        vectors = []
        while self.pic.interrupt_pending():
            vectors.append(self.pic.acknowledge())
        return vectors


def test_a_request_raises_intr_and_its_acknowledge_gives_the_vector() -> None:
    bench = Bench()
    bench.raise_(Irq.COM1)
    assert (bench.irr(), bench.isr()) == (0x10, 0)
    assert bench.pic.interrupt_pending()
    assert bench.pic.acknowledge() == BASE + 4
    assert (bench.irr(), bench.isr()) == (0, 0x10)
    bench.write(MASTER, EOI)
    assert bench.isr() == 0
    assert bench.intr == [True, False]


def test_fully_nested_mode_orders_by_level_and_inhibits_the_same_and_lower() -> None:
    bench = Bench()
    bench.raise_(5, 3, 6)
    assert bench.delivered() == [BASE + 3]
    bench.raise_(1)
    assert bench.delivered() == [BASE + 1]
    bench.lower(3)
    bench.raise_(3)
    assert bench.delivered() == []
    bench.write(MASTER, EOI)  # ends 1
    assert bench.delivered() == []
    bench.write(MASTER, EOI)  # ends 3, which has been requested again
    assert bench.delivered() == [BASE + 3]


def test_the_mask_holds_a_request_back_and_does_not_lose_it() -> None:
    bench = Bench()
    bench.write(MASTER_DATA, 0x10)
    bench.raise_(4)
    assert (bench.irr(), bench.read(MASTER_DATA), bench.pic.interrupt_pending()) == (0x10, 0x10, False)
    bench.write(MASTER_DATA, 0)
    assert bench.delivered() == [BASE + 4]


def test_edge_triggered_a_line_that_stays_high_interrupts_once() -> None:
    bench = Bench()
    bench.raise_(4)
    bench.raise_(4)
    assert bench.delivered() == [BASE + 4]
    bench.write(MASTER, EOI)
    assert bench.delivered() == []
    bench.pic.pulse(4)
    assert bench.delivered() == [BASE + 4]


def test_edge_triggered_a_request_that_falls_before_the_acknowledge_is_withdrawn() -> None:
    bench = Bench()
    bench.raise_(4)
    bench.lower(4)
    assert (bench.irr(), bench.pic.interrupt_pending()) == (0, False)
    assert bench.intr == [True, False]


def test_an_acknowledge_without_a_request_is_the_default_ir7_and_nothing_is_in_service() -> None:
    bench = Bench()
    assert bench.pic.acknowledge() == BASE + 7
    assert bench.isr() == 0


def test_a_spurious_ir7_of_the_slave_leaves_the_masters_level_in_service() -> None:
    bench = Bench()
    bench.pic.master.set_line(Irq.CASCADE, True)  # the slave's INT, seen by the master for a moment without a cause
    assert bench.pic.acknowledge() == SLAVE_BASE + 7
    assert (bench.isr(SLAVE), bench.isr(MASTER)) == (0, 0x04)


def test_level_triggered_a_line_that_stays_high_interrupts_again_after_the_eoi() -> None:
    bench = Bench(icw1=0x11 | LTIM)
    bench.raise_(4)
    assert bench.delivered() == [BASE + 4]
    assert bench.irr() == 0x10
    bench.write(MASTER, EOI)
    assert bench.delivered() == [BASE + 4]
    bench.lower(4)
    bench.write(MASTER, EOI)
    assert bench.delivered() == []


def test_cascade_mode_the_slave_gives_the_vector_and_both_need_an_eoi() -> None:
    bench = Bench()
    bench.raise_(Irq.ATA_PRIMARY)
    assert bench.delivered() == [SLAVE_BASE + 6]
    assert (bench.isr(MASTER), bench.isr(SLAVE)) == (0x04, 0x40)
    bench.raise_(Irq.RTC)
    assert bench.delivered() == []  # the master's level 2 is in service: not "special fully nested"
    bench.write(MASTER, EOI)
    assert bench.delivered() == [SLAVE_BASE]
    bench.raise_(Irq.KEYBOARD)
    assert bench.delivered() == [BASE + 1]


def test_cascade_mode_requests_of_the_slave_one_after_the_other_each_give_the_master_an_edge() -> None:
    bench = Bench()
    bench.raise_(9, 12)
    assert bench.delivered() == [SLAVE_BASE + 1]
    bench.write(SLAVE, EOI)
    bench.write(MASTER, EOI)
    assert bench.delivered() == [SLAVE_BASE + 4]


def test_special_fully_nested_mode_lets_a_higher_request_of_the_same_slave_through() -> None:
    bench = Bench(icw4=0x01 | SFNM)
    bench.raise_(Irq.ATA_PRIMARY)
    assert bench.delivered() == [SLAVE_BASE + 6]
    bench.raise_(Irq.RTC, 3, 15)
    assert bench.delivered() == [SLAVE_BASE]  # neither the master's lower level 3 nor the slave's lower 7
    bench.raise_(1)
    assert bench.delivered() == [BASE + 1]


def test_a_wrong_slave_number_leaves_the_vector_floating() -> None:
    bench = Bench(slave_id=3)
    bench.raise_(9)
    assert bench.delivered() == [FLOATING_VECTOR]


def test_a_master_that_was_told_of_no_slave_gives_its_own_vector() -> None:
    bench = Bench(slaves=0)
    bench.raise_(9)
    assert bench.delivered() == [BASE + 2]


def test_single_mode_expects_no_icw3() -> None:
    bench = Bench(icw1=0x11 | SNGL)
    bench.write(MASTER_DATA, 0xA5)
    assert bench.read(MASTER_DATA) == 0xA5


def test_without_ic4_the_sequence_ends_before_icw4_and_its_functions_are_off() -> None:
    bench = Bench(icw4=0x01 | AEOI)
    bench.initialize(0x10, 0)
    bench.write(MASTER_DATA, 0x5A)
    assert bench.read(MASTER_DATA) == 0x5A
    bench.raise_(0)
    assert bench.delivered() == [BASE]
    assert bench.isr() == 1


def test_icw1_clears_mask_and_edges_and_the_line_must_rise_again() -> None:
    bench = Bench()
    bench.write(MASTER_DATA, 0xFF)
    bench.write(MASTER, 0xC3)  # IR3 lowest
    bench.raise_(4)
    bench.write(MASTER, 0x0B)  # reads would give ISR
    bench.initialize(0x11, 0x01)
    assert bench.read(MASTER) == 0  # IRR, and nothing in it
    assert bench.read(MASTER_DATA) == 0
    assert not bench.pic.interrupt_pending()
    bench.lower(4)
    bench.raise_(4, 3)
    assert bench.delivered() == [BASE + 3]  # IR7 is lowest again


def test_no_interrupt_before_and_during_initialization() -> None:
    pic = PicPair(lambda _level: None)
    pic.set_line(1, True)
    assert not pic.interrupt_pending()
    for offset, value in ((MASTER, 0x11), (MASTER_DATA, BASE), (MASTER_DATA, 4)):
        pic.write(offset, 1, value)
        pic.pulse(1)
        assert not pic.interrupt_pending()
    pic.write(MASTER_DATA, 1, 0x01)
    assert pic.interrupt_pending()


def test_automatic_end_of_interrupt_leaves_nothing_in_service() -> None:
    bench = Bench(icw4=0x01 | AEOI)
    bench.raise_(3, 5, 9, 10)
    assert bench.delivered() == [SLAVE_BASE + 1, SLAVE_BASE + 2, BASE + 3, BASE + 5]
    assert bench.isr() == bench.isr(SLAVE) == 0


def test_automatic_rotation_in_aeoi_mode_makes_the_served_level_lowest() -> None:
    bench = Bench(icw4=0x01 | AEOI)
    bench.write(MASTER, 0x80)  # rotate in automatic EOI mode: set
    bench.raise_(3, 4)
    assert bench.delivered() == [BASE + 3, BASE + 4]
    bench.lower(3, 4)
    bench.raise_(3, 5)
    assert bench.delivered() == [BASE + 5, BASE + 3]
    bench.write(MASTER, 0x00)  # and clear
    bench.lower(3, 5)
    bench.raise_(3, 5)
    assert bench.delivered() == [BASE + 5, BASE + 3]


def test_automatic_rotation_example_of_the_data_sheet() -> None:
    # "Automatic Rotation": IR4 and IR6 request, IR4 is served; rotation on its EOI makes IR4 lowest and IR5 highest.
    bench = Bench()
    bench.raise_(4, 6)
    assert bench.delivered() == [BASE + 4]
    bench.write(MASTER, 0xA0)  # rotate on non-specific EOI
    assert bench.isr() == 0
    bench.lower(4)
    bench.raise_(4, 5)
    assert bench.delivered() == [BASE + 5]
    bench.write(MASTER, EOI)
    assert bench.delivered() == [BASE + 6]
    bench.write(MASTER, EOI)
    assert bench.delivered() == [BASE + 4]


def test_specific_rotation_sets_the_bottom_priority() -> None:
    bench = Bench()
    bench.write(
        MASTER, 0xC0 | 5
    )  # "if IR5 is programmed as the bottom priority device, then IR6 will have the highest one"
    bench.raise_(0, 5, 6)
    assert bench.delivered() == [BASE + 6]
    bench.write(MASTER, 0xE0 | 6)  # rotate on specific EOI: ends 6 and makes it lowest
    assert bench.delivered() == [BASE + 0]
    bench.write(MASTER, EOI | 0x40)  # specific EOI of 0
    assert bench.delivered() == [BASE + 5]


def test_specific_eoi_ends_the_level_it_names() -> None:
    bench = Bench()
    bench.raise_(5)
    bench.delivered()
    bench.raise_(3)
    bench.delivered()
    assert bench.isr() == 0x28
    bench.write(MASTER, 0x60 | 5)
    assert bench.isr() == 0x08
    bench.write(MASTER, 0x40 | 3)  # R=0 SL=1 EOI=0 is no operation
    assert bench.isr() == 0x08


def test_special_mask_mode_enables_every_level_but_the_masked() -> None:
    bench = Bench()
    bench.raise_(4)
    bench.delivered()
    bench.raise_(6)
    assert bench.delivered() == []
    bench.write(MASTER_DATA, 0x10)
    bench.write(MASTER, 0x68)  # set special mask
    assert bench.delivered() == [BASE + 6]
    bench.write(MASTER, EOI)  # "an IS bit that is masked ... will not be cleared by a non-specific EOI"
    assert bench.isr() == 0x10
    bench.write(MASTER, EOI)
    assert bench.isr() == 0x10
    bench.raise_(5)
    bench.write(MASTER, 0x48)  # reset special mask
    assert not bench.pic.interrupt_pending()


def test_poll_command_acknowledges_by_a_read() -> None:
    bench = Bench()
    bench.raise_(5)
    bench.write(MASTER, 0x0C)
    assert bench.read(MASTER) == 0x80 | 5
    assert (bench.isr(), bench.pic.interrupt_pending()) == (0x20, False)
    bench.write(MASTER, EOI)
    bench.write(MASTER, 0x0C)
    assert bench.read(MASTER_DATA) & 0x80 == 0  # any read is the poll's; nothing was requested
    assert bench.read(MASTER_DATA) == 0  # the mask again


@pytest.mark.parametrize("irq", [Irq.CASCADE, -1, 16])
def test_only_lines_that_exist_can_be_driven(irq: int) -> None:
    with pytest.raises(MonitorError, match=f"IRQ {int(irq)}"):
        Bench().pic.set_line(irq, True)


WRITES = st.tuples(st.just("write"), st.integers(0, 3), st.integers(0, 0xFF))
LINES = st.tuples(
    st.sampled_from(("raise", "lower")), st.sampled_from([irq for irq in range(16) if irq != 2]), st.just(0)
)
READS = st.tuples(st.sampled_from(("read", "acknowledge")), st.integers(0, 3), st.just(0))
STEPS = st.lists(st.one_of(WRITES, LINES, LINES, READS), max_size=40)


def run(pic: PicPair, steps: list[tuple[str, int, int]]) -> list[int]:
    seen = []
    for step, where, value in steps:
        if step == "write":
            pic.write(where, 1, value)
        elif step == "read":
            seen.append(pic.read(where, 1))
        elif step == "acknowledge":
            seen.append(pic.acknowledge())
        else:
            pic.set_line(where, step == "raise")
        seen.append(pic.interrupt_pending())
    return seen


@given(st.booleans(), STEPS, STEPS)
def test_a_restored_pair_goes_on_alike(
    initialized: bool, before: list[tuple[str, int, int]], after: list[tuple[str, int, int]]
) -> None:
    first, second = Bench().pic if initialized else PicPair(lambda _level: None), PicPair(lambda _level: None)
    run(first, before)
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.save()), type=PicPairState))
    assert run(first, after) == run(second, after)
    assert first.save() == second.save()


@given(st.booleans(), STEPS)
def test_intr_tells_every_change_and_can_deliver_foretells_it(
    initialized: bool, steps: list[tuple[str, int, int]]
) -> None:
    bench = Bench()
    pic = bench.pic
    if not initialized:
        pic.reset()
    level = False
    for step in steps:
        bench.intr.clear()
        run(pic, [step])
        for change in bench.intr:
            assert change is not level
            level = change
        assert pic.interrupt_pending() is level
    if not level:
        for irq in (irq for irq in range(16) if irq != 2):
            copy = PicPair(lambda _level: None)
            copy.restore(pic.save())
            foretold = copy.can_deliver(irq)
            copy.pulse(irq)
            assert copy.interrupt_pending() is foretold


def test_elcr_makes_single_inputs_level_triggered() -> None:
    """Intel 82371SB, "ELCR1" and "ELCR2": a line that stays high requests again after the end of interrupt."""
    intr: list[bool] = []
    pair = PicPair(intr.append)
    for offset, values in ((0, (0x11,)), (1, (0x20, 4, 1, 0)), (2, (0x11,)), (3, (0x28, 2, 1, 0))):
        for value in values:
            pair.write(offset, 1, value)
    pair.write(4, 1, 0xFF)
    pair.write(5, 1, 0xFF)
    assert (pair.read(4, 1), pair.read(5, 1)) == (0xF8, 0xDE)
    pair.write(4, 1, 0x20)
    for irq in (5, 6):
        pair.set_line(irq, True)
        assert pair.acknowledge() == 0x20 + irq
        pair.write(0, 1, 0x20)
        assert pair.interrupt_pending() is (irq == 5)
        pair.set_line(5, False)
    assert not pair.interrupt_pending()
    pair.write(4, 1, 0x40)  # the line of 6 is high still
    assert pair.acknowledge() == 0x26
