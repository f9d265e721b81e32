"""The x86 as a machine whose instructions can be executed from any state: the PC's processor, and little around it.

It is the completed CPU of `simvirt.machine` that is probed, not the engine inside: what the engine leaves out (delivery
through the IDT, I/O permission, UMIP, SYSENTER) the CPU supplies. One processor serves all experiments; before each of
them its whole state is put in place, registers, hidden parts and memory, so nothing leaks from one to the next.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import numpy as np

from simvirt.analyzer.model.experiment import Observation, Pair
from simvirt.analyzer.model.outcome import Called, Completed, Outcome, Trap, TrapKind, Trapped
from simvirt.analyzer.x86 import layout
from simvirt.analyzer.x86.components import (
    ACTIVITY,
    ADDRESS_MAP,
    COPROCESSOR_CODE_SEGMENT,
    IN_HLT,
    IO_BITMAP,
    MODE,
    OWN,
    PORT,
    PROCESSOR,
    RUNNING,
    TIME_STAMP,
)
from simvirt.analyzer.x86.declared import declared_form, declared_forms
from simvirt.analyzer.x86.situations import REGISTERS, Situation, situations
from simvirt.analyzer.x86.surroundings import Surroundings
from simvirt.errors import EngineError, UnknownNameError
from simvirt.machine.completion import complete_once
from simvirt.machine.cpu import Cpu
from simvirt.machine.events import EngineFault, ExceptionRaised, Halt, LimitReached, SoftwareInterrupt
from simvirt.machine.faults import ProcessorFault
from simvirt.machine.memory import AddressSpace, HostMemory, Region, RegionKind
from simvirt.machine.platforms import UNICORN_VERSION, StateOffsets
from simvirt.machine.state import Segment
from simvirt.machine.svm import Intercepts
from simvirt.x86.addresses import Gpa, Hpa
from simvirt.x86.exceptions import Vector
from simvirt.x86.forms import find_form
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from simvirt.analyzer.model.form import Form
    from simvirt.analyzer.model.state import Architecture, Component, State, Value
    from simvirt.analyzer.x86.variants import Variant
    from simvirt.machine.events import Event
    from simvirt.machine.interrupts import Interruption

_MEMORY_TRAPS: Final = frozenset({Vector.PF, Vector.AC})
_ARITHMETIC_TRAPS: Final = frozenset({Vector.DE, Vector.MF, Vector.XM})
_VECTORS: Final = frozenset(Vector)
_MEANT_TO_TRAP: Final = frozenset({"ud0", "ud1", "ud2", "int1"})
_MOST_EVENTS: Final = 32
"""Of one instruction."""
_O: Final = StateOffsets()
_STEADY: Final = ((_O.segments, _O.efer + 8), (_O.fpregs, _O.pat + 8), (_O.dr, _O.dr + 64))
"""The parts of the state image that hold components, beside general registers, RIP and EFLAGS."""
_FCS: Final = slice(_O.fpcs, _O.fpcs + 2)
_FLAG_FIELDS: Final = ("EFLAGS.IF", "EFLAGS.IOPL", "EFLAGS.VM", "EFLAGS.VIF, VIP", MODE)
_OUTSIDE: Final = (TIME_STAMP, PROCESSOR, IO_BITMAP, PORT, ACTIVITY)
"""Components that are not in the processor's image."""
_MATTERS_TO_VALUES: Final = frozenset(
    {MODE, "EFLAGS.IF", "EFLAGS.IOPL", "GDTR.base", "GDTR.limit", "IDTR.base", "IDTR.limit", "LDTR", "TR", ADDRESS_MAP}
)
"""Components that are tried with every set of operands' values; the others with the first of each encoding."""
_DATA_ATTRIBUTES, _CODE_ATTRIBUTES, _CODE_ATTRIBUTES_64 = 0x00CFF300, 0x00CF9B00, 0x00AF9B00

_Settings: TypeAlias = "tuple[tuple[str, Value], ...]"
"""Components that are otherwise than in the variant's configuration."""


class StartState(dict[str, "Value"]):
    """A start state, and beside it the processor's image that it stands for."""

    __slots__ = ("image",)
    image: bytes

    def __reduce__(self) -> tuple[type, tuple[dict[str, Value]]]:
        """Elsewhere a state is what it says; the image can be made again."""
        return dict, (dict(self),)


class _Met(Exception):  # noqa: N818 - an outcome, not an error
    """The instruction has raised an exception of the processor."""

    def __init__(self, vector: int, error_code: int | None) -> None:
        self.vector = vector
        self.error_code = error_code


def _stop_at(vector: int, error_code: int | None, _cr2: int | None, _during: Interruption | None) -> None:
    raise _Met(vector, error_code)


class X86Machine:
    """A variant of the x86, to be probed (`model.machine_model.MachineModel`).

    :ivar variant: which.
    """

    exhaustive: Final = False
    engine: Final = f"simvirt's CPU on Unicorn {UNICORN_VERSION}"

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self._cpu = Cpu(HostMemory(layout.MEMORY_SIZE))
        space = AddressSpace([Region(Gpa(0), layout.MEMORY_SIZE, RegionKind.RAM, Hpa(0), "RAM")])
        self._cpu.engine.set_address_space(space)
        self._around = Surroundings(space, variant.cpu_model)
        cpu = self._cpu
        cpu.intercept(Intercepts())
        cpu.engine.set_cpuid([])
        cpu.engine.set_native_tsc(None)
        cpu.engine.follow_model(self._around.cpu_model)
        cpu.exception_filter = _stop_at
        self._by_name = {row.component.name: row for row in variant.accessors}
        self._word = 8 if variant.bits == 64 else 4
        self._memory = np.frombuffer(cpu.engine.memory.view, dtype=np.uint8)
        self._pristine = np.frombuffer(layout.memory_image(variant.bits), dtype=np.uint8)
        self._base = self._memory.copy()
        word = np.dtype(f"<u{variant.bits // 8}")
        self._memory_words, self._base_words = self._memory.view(word), self._base.view(word)
        self._blank = cpu.engine.save_image()
        self._templates: dict[_Settings, StartState] = {}
        self._pointer, self._flags = ("RIP", "RFLAGS") if variant.bits == 64 else ("EIP", "EFLAGS")
        self._general = tuple(
            (register, register.name_at(int(variant.bits)).upper())
            for register in (GeneralRegister if variant.bits == 64 else tuple(GeneralRegister)[:8])
        )
        self._names = dict(self._general)
        self._registers = Struct(f"<{len(self._general)}Q")
        self._outside = tuple(self._by_name[name] for name in _OUTSIDE)
        self._quick = tuple(self._by_name[name] for name in (self._pointer, self._flags, *_FLAG_FIELDS, *_OUTSIDE))
        self._shown = (
            *range(layout.DATA, layout.DATA + 16, self._word),
            *range(layout.STACK, layout.STACK + 8 * self._word, self._word),
        )
        self._called_vector = 0
        every = tuple(self._pairs_of_settings())
        self._settings = {True: every, False: tuple(row for row in every if row[0].name in _MATTERS_TO_VALUES)}

    @property
    def architecture(self) -> Architecture:
        """The machine's state in terms of the model."""
        return self.variant.architecture

    def forms(self) -> Sequence[Form]:
        """The forms of the variant, in the library's order; those that this processor does not have are marked."""
        return [self._marked(form) for form in declared_forms(self.variant)]

    def form_names(self) -> Collection[str]:
        """The names of the variant's forms."""
        return {form.name for form in self.variant.forms}

    def form(self, identifier: str) -> Form:
        """One form, marked likewise.

        :raises UnknownNameError: the variant has no such form.
        """
        for form in self.variant.forms:
            if form.name == identifier:
                return self._marked(declared_form(form, self.variant))
        raise UnknownNameError("encoding form", identifier, self.form_names())

    def _marked(self, form: Form) -> Form:
        if form.not_executed or form.mnemonic in _MEANT_TO_TRAP:
            return form
        return replace(form, not_executed=self._why_not(form))

    def _why_not(self, form: Form) -> str:
        """What never completes in ring 0, with nothing forbidden, shows nothing of what it does; "" if it does."""
        met = set()
        for situation in situations(find_form(form.identifier), int(self.variant.bits)):
            outcome = self._execute(self._start(situation, self._enter(situation), ((MODE, 0),)))
            if not isinstance(outcome, Trapped):
                return ""
            met.add(outcome.trap.name)
        if met == {Vector.UD.mnemonic}:
            return "#UD at CPL 0: the processor here does not have it"
        return f"{' or '.join(sorted(met))} at CPL 0, whatever it is given: the processor here has nothing for it to do"

    # -------------------------------------------------------------------------------------------- start states

    def _pairs_of_settings(self) -> Iterator[tuple[Component, _Settings, _Settings]]:
        """The pairs of settings, without regard to an instruction: the component that differs, and both."""
        parts = {row.component.name: row.component for row in self.variant.accessors}
        closed = tuple(self.variant.vmm_configuration.items())
        mode = parts[MODE]
        for cpl, more in ((3, ()), (3, closed), (1, ()), (1, closed)):
            yield mode, ((MODE, 0), *more), ((MODE, cpl), *more)
        for name, value in self.variant.alternatives:
            yield mode, ((MODE, 0), (name, value)), ((MODE, 3), (name, value))
            for cpl in (3, 0):
                yield parts[name], ((MODE, cpl),), ((MODE, cpl), (name, value))
        for cpl in (3, 0):
            pointer = parts[self._pointer]
            yield pointer, ((MODE, cpl),), ((MODE, cpl), (pointer.name, layout.CODE_ELSEWHERE))

    def pairs(self, form: Form) -> Iterator[Pair]:
        """Pairs of start states to try the form from, the simplest first."""
        for situation in situations(find_form(form.identifier), int(self.variant.bits)):
            common = self._enter(situation)
            for component, first, second in self._settings[situation.plain]:
                yield Pair(self._start(situation, common, first), self._start(situation, common, second), component)

    def observe(self, form: Form) -> Iterator[Observation]:
        """The form executed from all of `pairs`, each start state once."""
        for situation in situations(find_form(form.identifier), int(self.variant.bits)):
            common = self._enter(situation)
            done: dict[_Settings, tuple[StartState, Outcome]] = {}
            for component, first, second in self._settings[situation.plain]:
                for settings in (first, second):
                    if settings not in done:
                        start = self._start(situation, common, settings)
                        done[settings] = start, self._execute(start)
                (start1, outcome1), (start2, outcome2) = done[first], done[second]
                yield Observation(Pair(start1, start2, component), (outcome1, outcome2))

    def execute(self, form: Form, start: State) -> Outcome:
        """What the instruction that stands at the start state's EIP comes to; `form` is for the record only."""
        del form
        if not isinstance(start, StartState):
            start = self._compose(dict(start))
        cells = {int(name[1:-1], 16): value for name, value in start.items() if name.startswith("[")}
        self._fill(cells)
        return self._execute(start)

    def _compose(self, values: Mapping[str, Value]) -> StartState:
        """A state with these values of its components, put together in the processor."""
        cpu, around = self._cpu, self._around
        state = cpu.state
        state.image[:] = self._blank
        state.eflags = 2
        for segment in SegmentRegister:
            state.set_segment(segment, Segment(layout.DS3, 0, 0xFFFFFFFF, _DATA_ATTRIBUTES))
        code = _CODE_ATTRIBUTES_64 if self.variant.bits == 64 else _CODE_ATTRIBUTES
        state.set_segment(SegmentRegister.CS, Segment(layout.CS0, 0, 0xFFFFFFFF, code))
        around.activity = RUNNING
        for row in self.variant.accessors:
            if row.component.name in values and row.component.name != MODE:
                row.write(cpu, around, values[row.component.name])
        self._by_name[MODE].write(cpu, around, values[MODE])
        for name in ("CS", "SS", COPROCESSOR_CODE_SEGMENT):  # where it is not its ring's
            self._by_name[name].write(cpu, around, values.get(name, OWN))
        state.refresh(cpl=cast("int", values[MODE]))
        start = StartState((row.component.name, row.read(cpu, around)) for row in self.variant.accessors)
        start.update((name, value) for name, value in values.items() if name.startswith("["))
        start.image = cpu.engine.save_image()
        return start

    def _start(self, situation: Situation, common: Mapping[str, Value], settings: _Settings) -> StartState:
        """The start state with these settings, and with what the situation works on."""
        template = self._templates.get(settings)
        if template is None:
            registers = {name: REGISTERS.get(register, 0) for register, name in self._general}
            values = {self._pointer: layout.CODE} | registers | self.variant.configuration | dict(settings)
            template = self._templates[settings] = self._compose(values)
        start = StartState(template)
        start.image = template.image
        start.update(common)
        if situation.flags:
            start[self._flags] = cast("int", start[self._flags]) | situation.flags
        start[_cell(cast("int", start[self._pointer]))] = situation.code
        return start

    def _enter(self, situation: Situation) -> dict[str, Value]:
        """Put an instruction and what it works on into memory, in both of the places where it can run.

        :return: the part of the start states that is the same in all of them.
        """
        cells: dict[int, Value] = dict.fromkeys((layout.CODE, layout.CODE_ELSEWHERE), situation.code)
        cells |= {address: value.to_bytes(size, "little") for address, value, size in situation.cells}
        self._fill(cells)
        common: dict[str, Value] = {
            self._names[register]: value for register, value in situation.registers if register in self._names
        }
        words = self._base_words
        return common | {_cell(address): int(words[address // self._word]) for address in self._shown}

    def _fill(self, cells: Mapping[int, Value]) -> None:
        """Memory as it is at the start, in both of the address maps."""
        base = self._base
        base[:] = self._pristine
        for address, value in cells.items():
            data = value if isinstance(value, bytes) else cast("int", value).to_bytes(self._word, "little")
            for offset in (0, layout.OTHER_MAP):
                base[address + offset : address + offset + len(data)] = np.frombuffer(data, dtype=np.uint8)
        self._memory[:] = base
        self._cpu.engine.drop_translations()

    # -------------------------------------------------------------------------------------------- running

    def _execute(self, start: StartState) -> Outcome:
        cpu, around = self._cpu, self._around
        cpu.state.image[:] = start.image
        self._registers.pack_into(cpu.state.image, 0, *[start[name] for name in self._names.values()])
        self._by_name[self._flags].write(cpu, around, start[self._flags])
        for row in self._outside:
            row.write(cpu, around, start[row.component.name])
        bitmap = layout.IO_BITMAP_BYTE
        self._base[bitmap] = self._base[bitmap + layout.OTHER_MAP] = self._memory[bitmap]
        cpu.engine.follow_umip()
        cpu.engine.flush_tlb()
        cpu.count = 0
        trap: Trap | None = None
        called = False
        try:
            called = self._run_one()
        except _Met as met:
            trap = _trap(met.vector, met.error_code)
        except ProcessorFault as fault:
            trap = _trap(fault.vector, fault.error_code)
        end = self._end(start)
        if trap is not None:
            return Trapped(trap, end)
        return Called(_trap(self._called_vector, None), start) if called else Completed(end)

    def _run_one(self) -> bool:
        """Run the instruction at RIP, with all that the processor does about it. Has it entered the supervisor?

        :raises _Met: it has raised an exception.
        :raises ProcessorFault: likewise.
        """
        cpu, around = self._cpu, self._around
        for _ in range(_MOST_EVENTS):
            event = cpu.run(1)
            kind = type(event)
            if kind is LimitReached:
                return False
            if kind is ExceptionRaised:
                raise _Met(event.vector, event.error_code)  # type: ignore[union-attr]
            if kind is EngineFault:
                raise EngineError(f"the engine stopped with status {event.status} while an instruction was probed")  # type: ignore[union-attr]
            met: Event | None = event
            while met is not None:
                met = complete_once(cpu, around, met)
            if isinstance(event, SoftwareInterrupt):
                self._called_vector = event.vector
                return True
            if kind is Halt:
                around.activity = IN_HLT
            if cpu.count:
                return False
        raise EngineError("an instruction under test does not end: this is a bug in simvirt, please report it")

    def _end(self, start: StartState) -> State:
        """The state that the processor is in, and what of memory differs from the start; memory is put back."""
        cpu, around = self._cpu, self._around
        image, before = cpu.state.image, start.image
        end = dict(start)
        if all(bytes(image[first:last]) == before[first:last] for first, last in _STEADY):
            end.update(zip(self._names.values(), self._registers.unpack_from(image), strict=True))
            rows = self._quick
        else:
            rows = self.variant.accessors
        for row in rows:
            end[row.component.name] = row.read(cpu, around)
        if bytes(image[_FCS]) == before[_FCS]:  # the same selector is its ring's at one CPL, and a number at another
            end[COPROCESSOR_CODE_SEGMENT] = start[COPROCESSOR_CODE_SEGMENT]
        offset = layout.OTHER_MAP if start[ADDRESS_MAP] == layout.TABLES_B else 0
        word = self._word
        window = slice(offset // word, (offset + layout.LINEAR_SIZE) // word)
        now, was = self._memory_words[window], self._base_words[window]
        for index in np.flatnonzero(now != was):
            end[_cell(int(index) * word)] = int(now[index])
            now[index] = was[index]
            cpu.engine.written(offset + int(index) * word, word)
        return end


@lru_cache(maxsize=4096)
def _cell(address: int) -> str:
    return f"[{address:#06x}]"


def _trap(vector: int, error_code: int | None) -> Trap:
    kind = (
        TrapKind.MEMORY
        if vector in _MEMORY_TRAPS
        else TrapKind.ARITHMETIC
        if vector in _ARITHMETIC_TRAPS
        else TrapKind.OTHER
    )
    name = Vector(vector).mnemonic if vector in _VECTORS else f"vector {vector:#x}"
    return Trap(int(vector), name, kind, error_code)
