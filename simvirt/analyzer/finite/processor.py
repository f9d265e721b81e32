"""What the function of an instruction sees of the machine.

::

    def load(cpu: Processor, a: int) -> None:
        cpu.A = cpu.read(a)


    def lpsw(cpu: Processor, a: int) -> None:
        cpu.require_privilege()
        ...

Registers are attributes, by the names of the description. The program counter reads as the next instruction's address,
and goes there unless it is set. Whatever the function does before a trap is undone by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from simvirt.analyzer.model.outcome import Trap, TrapKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simvirt.analyzer.finite.description import Description
    from simvirt.analyzer.model.state import Value

PRIVILEGE_TRAP: Final = Trap(0, "privilege")
MEMORY_TRAP: Final = Trap(1, "memory", TrapKind.MEMORY)
UNDEFINED_TRAP: Final = Trap(2, "undefined")
CALL_TRAP: Final = Trap(3, "call")
_OTHER_TRAP: Final = 4


class TrapTaken(Exception):  # noqa: N818 -- an event of the machine, not an error
    """The instruction traps."""

    def __init__(self, trap: Trap, *, is_call: bool = False) -> None:
        self.trap = trap
        self.is_call = is_call
        super().__init__(trap.name)


class Backing(Protocol):
    """Where registers and cells are kept: a machine that runs, or one that tries all values."""

    def get(self, name: str) -> Value:
        """What a register holds."""
        ...

    def put(self, name: str, value: Value) -> None:
        """Set a register."""
        ...

    def load(self, address: int, relocation: int) -> int:
        """The word at a relative address."""
        ...

    def store(self, address: int, relocation: int, value: int) -> None:
        """Write the word at a relative address."""
        ...


class Processor:
    """The machine as an instruction's function sees it."""

    _description: Description
    _backing: Backing
    _is_proof: bool
    _word_mask: int
    _jumped: bool

    def __init__(self, description: Description, backing: Backing, *, proof: bool, cells: int | None = None) -> None:
        # Not by plain assignment, which goes to the machine's registers.
        put = object.__setattr__
        put(self, "_description", description)
        put(self, "_backing", backing)
        put(self, "_is_proof", proof)
        put(self, "_word_mask", (1 << description.storage.word.at(proof=proof)) - 1)
        put(self, "_masks", {r.name: (1 << r.size.at(proof=proof)) - 1 for r in description.registers if not r.values})
        storage = description.storage
        put(self, "_relocation", storage.relocation)
        put(self, "_bounds", storage.bounds)
        put(self, "_cells", storage.cells.at(proof=proof) if cells is None else cells)
        put(self, "_counter", description.counter)
        put(self, "_jumped", False)

    def run(self, function: Callable[..., None], operands: Mapping[str, int]) -> bool:
        """Execute one instruction. Did it set the program counter?

        :raises TrapTaken: it trapped.
        """
        object.__setattr__(self, "_jumped", False)
        function(self, **operands)
        return bool(self._jumped)

    # ------------------------------------------------------------------------------------------------- registers
    def __getattr__(self, name: str) -> Any:
        if name not in self._description.by_name:
            raise AttributeError(f"the machine has no register {name}; it has {', '.join(self._description.by_name)}")
        value = self._backing.get(name)
        if name == self._counter and not self._jumped:
            assert isinstance(value, int)
            return (value + 1) & self._masks[name]
        return value

    def __setattr__(self, name: str, value: Value) -> None:
        register = self._description.by_name.get(name)
        if register is None:
            raise AttributeError(f"the machine has no register {name}; it has {', '.join(self._description.by_name)}")
        if register.values:
            if value not in register.values:
                raise ValueError(f"register {name} holds {' or '.join(register.values)}, not {value!r}")
            self._backing.put(name, value)
            return
        if not isinstance(value, int):
            raise TypeError(f"register {name} holds a number, not {value!r}")
        if name == self._counter:
            object.__setattr__(self, "_jumped", True)
        self._backing.put(name, value & self._masks[name])

    # --------------------------------------------------------------------------------------------------- storage
    def read(self, address: int) -> int:
        """The word at an address, through relocation and bounds; memory-traps outside of them."""
        return self._backing.load(address, self._relocate(address))

    def write(self, address: int, value: int) -> None:
        """Write the word at an address, through relocation and bounds; memory-traps outside of them."""
        self._backing.store(address, self._relocate(address), value & self._word_mask)

    def _relocate(self, address: int) -> int:
        """The relocation, if the address is allowed: first the size of storage, then the bound (§2 of the paper)."""
        relocation = self._backing.get(self._relocation) if self._relocation else 0
        assert isinstance(relocation, int)
        if not 0 <= address + relocation < self._cells:
            raise TrapTaken(MEMORY_TRAP)
        if self._bounds:
            bound = self._backing.get(self._bounds)
            assert isinstance(bound, int)
            if address >= bound:
                raise TrapTaken(MEMORY_TRAP)
        return relocation

    def bits(self, size: str) -> int:
        """The width of a register, or of a word of storage (``"word"``): programs of several sizes ask here."""
        if size == "word":
            return self._word_mask.bit_length()
        return self._description.by_name[size].size.at(proof=self._is_proof)

    # ----------------------------------------------------------------------------------------------------- traps
    @property
    def is_privileged(self) -> bool:
        """Is the machine in a privileged mode?"""
        return self._backing.get(self._description.mode) in self._description.privileged

    def require_privilege(self) -> None:
        """Trap, unless in a privileged mode."""
        if not self.is_privileged:
            raise TrapTaken(PRIVILEGE_TRAP)

    def trap(self, name: str, *, arithmetic: bool = False) -> NoReturn:
        """Trap for another reason: an operand, a configuration, a division."""
        raise TrapTaken(Trap(_OTHER_TRAP, name, TrapKind.ARITHMETIC if arithmetic else TrapKind.OTHER))

    def call(self) -> NoReturn:
        """Enter the supervisor, which is this instruction's purpose."""
        raise TrapTaken(CALL_TRAP, is_call=True)
