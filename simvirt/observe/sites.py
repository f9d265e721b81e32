"""Sites: single instructions that a guest's author has named, and what each does under every strategy.

A symbol ``site_NAME`` marks an instruction. After the first divergence two runs have nothing to do with each other
any more, so each site is tried by itself. The reference runs to where it first reaches the site; its state, memory
and devices are given to the machine under the strategy, through the VM map f; both execute the one instruction; and
what they did is compared under f again. "Map, then execute" must equal "execute, then map": that is Popek and
Goldberg's condition on the VM map, a homomorphism, for one instruction (1974 §5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.observe.breakpoints import first_reached
from simvirt.observe.code import place
from simvirt.observe.differences import all_pages, copy_msrs, partings, rank
from simvirt.observe.fault_names import fault_name
from simvirt.observe.numbers import shown
from simvirt.observe.site_table import SiteEffect, SiteRow, SiteTable
from simvirt.x86.addresses import PAGE_SHIFT, PAGE_SIZE, Gpa, Gva
from simvirt.x86.flags import Eflags
from simvirt.x86.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from simvirt.guests.image import GuestImage
    from simvirt.observe.differences import Parting
    from simvirt.observe.trial import Trial
    from simvirt.x86.instruction import Instruction

PREFIX: Final = "site_"
_UNREMARKABLE: Final = frozenset({"EIP", "RIP", "instructions retired"})
"""What every instruction changes."""
_STACK_POINTER: Final = frozenset({"ESP", "RSP"})
"""What an instruction that pops changes, whatever it pops."""
_SHOWN_MOST: Final = 3


def site_addresses(image: GuestImage) -> dict[str, Gva]:
    """The sites of an image by name."""
    return {
        symbol.name.removeprefix(PREFIX): symbol.address for symbol in image.symbols if symbol.name.startswith(PREFIX)
    }


def compare_sites(
    image: GuestImage, reference: Callable[[], Trial], strategies: Mapping[str, Callable[[], Trial]], limit: int
) -> SiteTable:
    """Try every site by itself.

    Args:
        image: the guest.
        reference: makes a trial on the bare machine, at the guest's beginning.
        strategies: the same for each strategy.
        limit: instructions within which the reference is to reach a site.
    """
    sites = site_addresses(image)
    reached = first_reached(reference(), set(sites.values()), limit)
    bench = Bench(reference(), reference(), {name: Laboratory(make) for name, make in strategies.items()})
    order = sorted(sites.items(), key=lambda site: (reached.get(site[1], limit), site[0]))
    rows = [bench.try_site(name, address, reached.get(address)) for name, address in order]
    return SiteTable(bench.before.strategy.info.name, tuple(strategies), tuple(rows))


class Bench:
    """The reference twice, in front of a site and behind it, and the machines that are tried against it."""

    def __init__(self, before: Trial, after: Trial, laboratories: Mapping[str, Laboratory]) -> None:
        self.before = before
        self._after = after
        self._laboratories = laboratories

    def try_site(self, name: str, address: Gva, at: int | None) -> SiteRow:
        """Execute the instruction at a site everywhere; `at` instructions lie before it."""
        if at is None or self.before.advance(at) is not None or self._after.advance(at) is not None:
            return SiteRow(name, address, "", None, "never reached")
        where = place(self.before)
        if where.address != address:
            return SiteRow(name, address, "", None, "not reached without breakpoints: the guest looks at its own code")
        written = self.before.take_dirty_pages()
        for laboratory in self._laboratories.values():
            laboratory.take_up(self.before, written)
        self._after.take_dirty_pages()
        self._after.advance(at + 1)
        pages = self._after.take_dirty_pages()
        effects = {strategy: laboratory.step(self._after, pages) for strategy, laboratory in self._laboratories.items()}
        reference, idle = self._changes(at, pages, where.instruction)
        return SiteRow(name, address, where.text, at, reference, effects, idle)

    def _changes(self, at: int, pages: Iterable[int], instruction: Instruction) -> tuple[str, bool]:
        """What the instruction did on the reference, and whether that is nothing worth a comparison."""
        faults = [
            fault_name(record.vector, record.error_code)
            for record in self._after.cpu.fault_chain
            if record.instruction == at
        ]
        if faults:
            return ", ".join(faults), False
        changed = sorted(partings(self.before, self._after, pages), key=rank)
        told = [parting for parting in changed if parting.component not in _UNREMARKABLE]
        goes_on = self._after.machine.processor.guest_state().rip == instruction.next_address
        return _listed(told), goes_on and all(_is_trifle(parting, instruction) for parting in told)


class Laboratory:
    """A machine under a strategy that is put into the reference's state, executes one instruction, and is looked at."""

    def __init__(self, make: Callable[[], Trial]) -> None:
        self._make = make
        self._trial = make()
        self._written = set(all_pages(self._trial))

    def take_up(self, reference: Trial, written: Iterable[int]) -> None:
        """Become what the reference is, whose memory was `written` since the last time."""
        if self._trial.error:
            self._trial = self._make()
            self._written = set(all_pages(self._trial))
        trial, machine, source = self._trial, self._trial.machine, reference.machine
        self._written.update(written)
        self._written |= trial.take_dirty_pages()
        for page in self._written:
            gpa = Gpa(page << PAGE_SHIFT)
            data = source.read_physical(gpa, PAGE_SIZE)
            if data != machine.read_physical(gpa, PAGE_SIZE):
                machine.write_physical(gpa, data)
        self._written = set()
        machine.outcome, machine.halted = None, source.halted
        trial.cpu.count = reference.count
        machine.board.restore(source.board.save())
        machine.processor.set_guest_state(source.processor.guest_state())
        copy_msrs(reference, trial)
        trial.take_dirty_pages()

    def step(self, reference: Trial, pages: set[int]) -> SiteEffect:
        """Execute the one instruction and compare with the reference, which has done so and has written `pages`."""
        self._trial.advance(reference.count)
        self._written = self._trial.take_dirty_pages()
        found = partings(reference, self._trial, pages | self._written)
        if self._trial.error:
            return SiteEffect(same=False, shown=f"{self._trial.error.kind}: {self._trial.error.message}")
        return SiteEffect(not found, _listed(sorted(found, key=rank)))


def _is_trifle(parting: Parting, instruction: Instruction) -> bool:
    """Is this a change that says nothing of how the machine is configured?"""
    before, after = parting.reference_value, parting.value
    if parting.component == "EFLAGS" and isinstance(before, int) and isinstance(after, int):
        return instruction.operation is Operation.POPF and not (before ^ after) & ~int(Eflags.ARITHMETIC)
    return parting.component in _STACK_POINTER


def _listed(changed: Iterable[Parting]) -> str:
    texts = [f"{parting.component} = {shown(parting.value)}" for parting in changed]
    more = [f"and {len(texts) - _SHOWN_MOST} more"] if len(texts) > _SHOWN_MOST else []
    return ", ".join([*texts[:_SHOWN_MOST], *more])
