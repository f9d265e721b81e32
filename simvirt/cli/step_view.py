"""What a person sees between two instructions: code, registers with the changes marked, stack, and the last exit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from simvirt.cli.table import Style, coloured, paint
from simvirt.observe.code import code_bits, linear_address, source_at, symbol_at
from simvirt.observe.descriptor_tables import Table, show_table
from simvirt.observe.dimensions import translate
from simvirt.observe.hexdump import hexdump
from simvirt.observe.numbers import counted
from simvirt.observe.page_walk import read_linear
from simvirt.observe.show_walk import show_translation
from simvirt.x86.addresses import Gva
from simvirt.x86.decode import MAX_INSTRUCTION_LENGTH, disassemble, instruction_length
from simvirt.x86.flags import Cr0, Eflags, iopl
from simvirt.x86.instruction import Bits
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.machine.breakpoints import Watchpoint
    from simvirt.observe.trial import Trial
    from simvirt.vmm.exit_log import ExitRecord

_CODE_LINES: Final = 5
_STACK_WORDS: Final = 8
_FLAGS: Final = (
    Eflags.CF, Eflags.PF, Eflags.AF, Eflags.ZF, Eflags.SF, Eflags.TF, Eflags.IF, Eflags.DF, Eflags.OF, Eflags.NT,
    Eflags.RF, Eflags.VM, Eflags.AC,
)  # fmt: skip
_LARGEST_NUMBER: Final = 8


class StepView:
    """Prints a trial's state to standard output."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._before = trial.machine.processor.guest_state()
        self._console_seen = 0

    def remember(self) -> None:
        """Changes are marked against the state as it is now."""
        self._before = self._trial.machine.processor.guest_state()

    def print_stop(self, last_exit: ExitRecord | None) -> None:
        """Everything, at an instruction that is about to run."""
        trial = self._trial
        state = trial.machine.processor.guest_state()
        title = f"after {counted(trial.count, 'instruction')}, {trial.strategy.info.name}, ring {state.cpl}"
        sleeping = "; the processor sleeps (HLT)" if trial.machine.halted else ""
        print(paint(f"── {title}{sleeping} ".ljust(80, "─"), Style.STRONG))
        self._print_console()
        self._print_code(state)
        self._print_main_registers(state)
        self._print_stack(state)
        if last_exit is not None:
            self._print_exit(last_exit)

    def print_registers(self) -> None:
        """Every component of the state by the manual's name."""
        state = self._trial.machine.processor.guest_state()
        before = dict(self._before.components())
        cells = [
            _marked(name, f"{value:08x}", changed=before.get(name) != value)
            for name, value in state.components()
            if name not in _EXTENDED_NAMES or "RIP" in before
        ]
        _print_grid(cells, 4)

    def print_memory(self, gva: int, size: int) -> None:
        """Guest memory as bytes and characters."""
        data = read_linear(self._trial, gva, size)
        if not data:
            print(self._nothing(self._trial.machine.processor.guest_state()))
        for line in hexdump(gva, data):
            print(line)

    def print_stack(self, words: int) -> None:
        """So many words from the stack pointer up."""
        self._print_stack(self._trial.machine.processor.guest_state(), words)

    def print_table(self, table: Table) -> None:
        """A descriptor table, decoded.

        Raises:
            UsageError: the guest has none, or it cannot be read.
        """
        print("\n".join(show_table(self._trial, table)))

    def print_walk(self, gva: int) -> None:
        """The walk through the guest's page tables."""
        print("\n".join(show_translation(translate(self._trial, gva))))

    def print_exits(self) -> None:
        """Exits to the VMM so far."""
        log = self._trial.log
        for reason, number in log.counts.most_common():
            print(f"{reason.name:28} {number:12,}")
        print(counted(log.total, "exit"))

    def value(self, point: Watchpoint) -> str:
        """What the bytes of a watchpoint hold now."""
        data = read_linear(self._trial, point.address, point.length)
        if len(data) <= _LARGEST_NUMBER:
            return f"{int.from_bytes(data, 'little'):#x}"
        return data.hex(" ")

    # ------------------------------------------------------------------------------------------------------- the parts

    def _print_exit(self, record: ExitRecord) -> None:
        """The exit made last; it stands before the instruction after as many as it tells."""
        cause = record.cause
        print(
            f"exit {record.number}  after {counted(record.instruction, 'instruction')}, {record.time_ns:,} ns: "
            f"{record.reason.name}: {cause.what}\n    {cause.why} ({cause.source})"
        )

    def _print_console(self) -> None:
        console = self._trial.machine.board.console
        if len(console) > self._console_seen:
            text = bytes(console[self._console_seen :]).decode("utf-8", "backslashreplace")
            print(f"console  {text!r}")
            self._console_seen = len(console)

    def _print_code(self, state: ArchitecturalState) -> None:
        bits = code_bits(state)
        offset, linear = state.rip, linear_address(state, bits)
        code = read_linear(self._trial, linear, _CODE_LINES * MAX_INSTRUCTION_LENGTH)
        at = 0
        for number in range(_CODE_LINES):
            piece = bytes(code[at : at + MAX_INSTRUCTION_LENGTH])
            if not piece:
                if number == 0:
                    print(f"> {offset:08x}  ({self._nothing(state)})  {self._place(linear)}".rstrip())
                break
            length = instruction_length(piece, bits) or 1
            line = (
                f"{'>' if number == 0 else ' '} {offset + at:08x}  {piece[:length].hex():16}  "
                f"{disassemble(piece, offset + at, bits):34} {self._place(linear + at)}"
            )
            print(paint(line, Style.STRONG) if number == 0 else line)
            at += length

    def _place(self, gva: int) -> str:
        """Symbol and source line of an address, where the image has them."""
        image = self._trial.image
        return f"{symbol_at(image, Gva(gva)) or '':20} {source_at(image, Gva(gva)) or ''}".rstrip()

    def _print_main_registers(self, state: ArchitecturalState) -> None:
        before = dict(self._before.components())
        values = dict(state.components())
        wide = "RIP" in values
        size = 16 if wide else 8
        names = [name for name in values if name in _GENERAL_NAMES and (wide or name not in _EXTENDED_NAMES)]
        cells = [_marked(name, f"{values[name]:0{size}x}", changed=before.get(name) != values[name]) for name in names]
        _print_grid(cells, 4)
        counter = "RIP" if wide else "EIP"
        eflags = values["EFLAGS"]
        flags = " ".join(flag.name or "" for flag in _FLAGS if eflags & flag)
        selectors = [
            _marked(
                register.name,
                f"{values[register.name]:04x}",
                changed=before.get(register.name) != values[register.name],
            )
            for register in SegmentRegister
        ]
        _print_grid(selectors, len(selectors))
        flags_changed = before.get("EFLAGS") != eflags
        print(
            f"{_marked(counter, f'{values[counter]:0{size}x}', changed=False)}  "
            f"{_marked('EFLAGS', f'{eflags:08x}', changed=flags_changed)}[{flags}] IOPL {iopl(eflags)}"
        )

    def _print_stack(self, state: ArchitecturalState, words: int = _STACK_WORDS) -> None:
        segment = state.segments[SegmentRegister.SS]
        wide = code_bits(state) is Bits.CODE_64
        size = 8 if wide else 4 if segment.default_size else 2
        base = 0 if wide else segment.base
        pointer = state.general[GeneralRegister.RSP] & (1 << 8 * size) - 1
        data = read_linear(self._trial, pointer + base, words * size)
        values = [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data) - size + 1, size)]
        for at in range(0, max(len(values), 1), _STACK_WORDS):
            line = " ".join(f"{value:0{2 * size}x}" for value in values[at : at + _STACK_WORDS])
            print(f"stack {pointer + at * size:08x}: {line or self._nothing(state)}")

    @staticmethod
    def _nothing(state: ArchitecturalState) -> str:
        """Why there is nothing to be read."""
        return "no page is mapped here" if state.control[0] & Cr0.PG else "nothing to read here"


_GENERAL_NAMES: Final = frozenset(
    [register.name_at(32).upper() for register in GeneralRegister] + [register.name for register in GeneralRegister]
)
_EXTENDED_NAMES: Final = frozenset(register.name for register in GeneralRegister if register >= GeneralRegister.R8)
"""Registers that 32-bit code does not have."""


def _marked(name: str, value: str, *, changed: bool) -> str:
    """A register, with a star (and colour) when it has changed."""
    text = f"{name} {value}{'*' if changed else ' '}"
    return paint(text, Style.DOUBT) if changed and coloured(sys.stdout) else text


def _print_grid(cells: list[str], columns: int) -> None:
    size = max(map(len, cells))
    for at in range(0, len(cells), columns):
        print("  ".join(cell.ljust(size) for cell in cells[at : at + columns]).rstrip())
