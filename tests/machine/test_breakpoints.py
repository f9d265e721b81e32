"""Debug registers (SDM Vol. 3B §18.2, §18.3.1) and a debugger's break- and watchpoints."""

from __future__ import annotations

import pytest

from simvirt.errors import UsageError
from simvirt.machine.breakpoints import Breakpoint, WatchedAccess, Watchpoint
from simvirt.machine.events import DebuggerHit, ExceptionRaised, Halt, LimitReached
from simvirt.x86.addresses import Gva
from simvirt.x86.exceptions import Vector
from tests.support.code import le
from tests.support.pc import CODE, DATA, EAX, EBX, ECX, EDI, EDX, ESI, ESP, STACK, Pc, flat_pc, long_pc, real_pc

RF, BS, BD = 1 << 16, 1 << 14, 1 << 13
EXECUTE, WRITE, PORT, ACCESS = range(4)
LENGTH = {1: 0, 2: 1, 8: 2, 4: 3}


def arm(pc: Pc, number: int, address: int, on: int, length: int = 1) -> None:
    """Enable one breakpoint, globally."""
    pc.state.set_debug_register(number, address)
    dr7 = pc.state.debug_register(7) | 0x400 | 2 << 2 * number
    field = 16 + 4 * number
    pc.state.set_debug_register(7, dr7 & ~(0xF << field) | (LENGTH[length] << 2 | on) << field)


def conditions(pc: Pc) -> int:
    return pc.state.debug_register(6) & 0xF00F


# ------------------------------------------------------------------------------------------------ instructions


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_an_instruction_breakpoint_is_a_fault(steps: int) -> None:
    """RIP is on the instruction, which has not been executed; RF is pushed as it was (§18.3.1.1)."""
    pc = flat_pc()
    pc.load("40 ; inc eax\n40 ; inc eax\n40 ; inc eax\n40 ; inc eax\nf4 ; hlt")
    arm(pc, 2, CODE + steps, EXECUTE)
    pc.run()
    assert pc.vector == Vector.DB
    assert (pc.stack(1)[0], pc.state[EAX], pc.cpu.count) == (CODE + steps, steps, steps)
    assert pc.stack(3)[2] & RF == 0
    assert conditions(pc) == 1 << 2


def test_rf_lets_the_instruction_run_once() -> None:
    """The handler sets RF in the image; the breakpoint hits again when the loop comes round."""
    pc = flat_pc()
    pc.load("40 ; inc eax\neb fd ; jmp $-1")
    arm(pc, 0, CODE, EXECUTE)
    for turn in range(3):
        assert pc.event() == ExceptionRaised(Vector.DB, condition=1)
        assert pc.state[EAX] == turn
        pc.state.eflags |= RF


def test_the_handler_of_a_breakpoint_returns_with_rf() -> None:
    pc = flat_pc()
    pc.load("40 ; inc eax\n40 ; inc eax\nf4 ; hlt")
    pc.load("81 4c 24 08 00 00 01 00 ; or dword [esp+8], RF\n43 ; inc ebx\ncf ; iretd", CODE + 0x400)
    pc.write(0x2000 + 8, bytes.fromhex("00040800008e0100"))  # gate of vector 1 to CODE + 0x400
    pc.state[EBX] = 0
    arm(pc, 0, CODE + 1, EXECUTE)
    pc.run()
    assert (pc.state[EAX], pc.state[EBX], pc.state.rip) == (2, 1, CODE + 2)


def test_breakpoints_in_real_and_64_bit_mode() -> None:
    pc = real_pc()
    pc.load("90 ; nop\n90 ; nop\nf4 ; hlt")
    arm(pc, 1, CODE + 1, EXECUTE)
    pc.run()
    assert pc.state.rip == 0x10
    pc = long_pc()
    pc.load("90 ; nop\n90 ; nop\nf4 ; hlt")
    arm(pc, 3, CODE + 1, EXECUTE)
    pc.run()
    assert (pc.vector, conditions(pc)) == (1, 8)


def test_disabling_a_breakpoint_and_mov_to_dr7() -> None:
    """The guest's own MOV arms and disarms; code that has been translated before is stopped too."""
    pc = flat_pc()
    pc.load("40 ; inc eax\n48 ; dec eax\n0f 23 fb ; mov dr7, ebx\neb f9 ; jmp $-5")
    pc.state[EBX] = 0x400
    pc.step(16)
    pc.state.set_debug_register(0, CODE + 1)
    pc.state[EBX] = 0x401
    assert pc.state.rip == CODE
    pc.step(4)
    pc.complete(pc.event())
    assert pc.vector == 1
    pc.state.rip, pc.state[EBX] = CODE + 2, 0x400
    pc.step(40)


def test_undefined_instruction_with_a_breakpoint() -> None:
    """The breakpoint comes first, then #UD (Vol. 3A Table 6-2)."""
    pc = flat_pc()
    pc.load("0f 0b ; ud2")
    arm(pc, 0, CODE, EXECUTE)
    assert pc.event() == ExceptionRaised(Vector.DB, condition=1)
    pc.state.eflags |= RF
    assert pc.event() == ExceptionRaised(Vector.UD)
    pc.state.eflags = 2
    pc.write(CODE, b"\xf0\x90")  # LOCK NOP
    pc.state.eflags |= RF
    assert pc.event() == ExceptionRaised(Vector.UD)


def test_a_trap_of_the_instruction_before_comes_before_the_breakpoint() -> None:
    """Vol. 3A Table 6-2: traps on the previous instruction, then interrupts, then code breakpoints."""
    pc = flat_pc()
    pc.load("40 ; inc eax\n40 ; inc eax")
    arm(pc, 0, CODE + 1, EXECUTE)
    pc.state.eflags = 2 | 1 << 8
    assert pc.event() == ExceptionRaised(Vector.DB, condition=BS)


# ------------------------------------------------------------------------------------------------ data breakpoints


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    ("listing", "address", "length", "on"),
    [
        ("89 03 ; mov [ebx], eax", DATA, 4, WRITE),
        ("89 03 ; mov [ebx], eax", DATA + 3, 1, WRITE),
        ("89 03 ; mov [ebx], eax", DATA + 2, 2, ACCESS),
        ("89 03 ; mov [ebx], eax", DATA, 8, ACCESS),
        ("8b 03 ; mov eax, [ebx]", DATA + 1, 1, ACCESS),
        ("01 03 ; add [ebx], eax", DATA, 1, WRITE),
        ("ff 33 ; push [ebx]", DATA, 4, ACCESS),
        ("50 ; push eax", STACK - 4, 4, WRITE),
        ("a4 ; movsb", DATA + 0x40, 1, WRITE),
        ("0f c7 0b ; cmpxchg8b [ebx]", DATA + 4, 4, WRITE),
        ("0f 29 03 ; movaps [ebx], xmm0", DATA + 12, 4, WRITE),
    ],
)
def test_a_data_breakpoint_is_a_trap(listing: str, address: int, length: int, on: int, bits: int) -> None:
    pc = flat_pc() if bits == 32 else long_pc()
    pc.state.set_control_register(4, pc.state.cr4 | 1 << 9)
    pc.state.refresh()
    pc.state[EBX] = pc.state[ESI] = DATA
    pc.state[EDI] = DATA + 0x40
    pc.load("90 ; nop\n" + listing + "\n40 ; inc eax" if bits == 32 else "90 ; nop\n" + listing + "\n90 ; nop")
    if listing.startswith("50") and bits == 64:
        address -= 4
    arm(pc, 1, address, on, length)
    assert pc.event() == ExceptionRaised(Vector.DB, condition=1 << 1)
    assert pc.state.rip == CODE + 1 + len(bytes.fromhex(listing.split(";", maxsplit=1)[0]))
    assert pc.cpu.count == 2


@pytest.mark.parametrize(
    ("listing", "address", "length", "on"),
    [
        ("8b 03 ; mov eax, [ebx]", DATA, 4, WRITE),
        ("89 03 ; mov [ebx], eax", DATA + 4, 4, WRITE),
        ("89 03 ; mov [ebx], eax", DATA - 1, 1, ACCESS),
        ("8d 03 ; lea eax, [ebx]", DATA, 4, ACCESS),
        ("f3 a4 ; rep movsb", DATA + 0x40, 1, WRITE),
    ],
)
def test_what_is_no_hit(listing: str, address: int, length: int, on: int) -> None:
    """Reads of a write breakpoint, neighbours, addresses that are only computed, and strings of no length."""
    pc = flat_pc()
    pc.state[EBX] = pc.state[ESI] = DATA
    pc.state[EDI], pc.state[ECX] = DATA + 0x40, 0
    pc.load(listing + "\nf4 ; hlt")
    arm(pc, 0, address, on, length)
    assert isinstance(pc.event(), Halt)


def test_addresses_are_aligned_to_their_length() -> None:
    """§18.2.5: low bits of the address are not looked at."""
    pc = flat_pc()
    pc.load(f"a2 {le(DATA)} ; mov [DATA], al")
    arm(pc, 0, DATA + 3, WRITE, 4)
    assert pc.event() == ExceptionRaised(Vector.DB, condition=1)


def test_two_conditions_and_a_single_step_in_one_trap() -> None:
    pc = flat_pc()
    pc.state[EBX] = DATA
    pc.load("89 03 ; mov [ebx], eax\n90 ; nop")
    arm(pc, 0, DATA, WRITE, 4)
    arm(pc, 3, DATA + 1, ACCESS)
    pc.state.eflags = 2 | 1 << 8
    assert pc.event() == ExceptionRaised(Vector.DB, condition=BS | 1 | 8)
    pc.complete(pc.event())


def test_b0_to_b3_are_those_of_the_last_exception_and_bs_stays() -> None:
    pc = flat_pc()
    pc.state.set_debug_register(6, 0xFFFF_0FF0 | BS | 0xF)
    pc.state[EBX] = DATA
    pc.load("89 03 ; mov [ebx], eax\nf4 ; hlt")
    arm(pc, 1, DATA, WRITE, 4)
    pc.run()
    assert (pc.vector, conditions(pc)) == (1, BS | 2)


def test_a_repeated_string_traps_behind_the_iteration_that_hits() -> None:
    pc = flat_pc()
    pc.state[ESI], pc.state[EDI], pc.state[ECX] = DATA, DATA + 0x100, 8
    pc.load("f3 a4 ; rep movsb\nf4 ; hlt")
    arm(pc, 0, DATA + 0x103, WRITE)
    assert pc.event() == ExceptionRaised(Vector.DB, condition=1)
    assert (pc.state.rip, pc.state[ECX]) == (CODE, 4)
    assert isinstance(pc.event(), Halt)


def test_rf_is_1_between_two_iterations() -> None:
    """§18.3.1.1: a breakpoint on a repeated string instruction hits once, and an interrupt in its midst saves RF."""
    pc = flat_pc()
    pc.state[ESI], pc.state[EDI], pc.state[ECX] = DATA, DATA + 0x100, 8
    pc.load("90 ; nop\nf3 a4 ; rep movsb\nf4 ; hlt")
    arm(pc, 0, CODE + 1, EXECUTE)
    assert pc.event() == ExceptionRaised(Vector.DB, condition=1)
    assert pc.state[ECX] == 8
    pc.state.eflags |= RF
    pc.step(3)
    assert (pc.state[ECX], pc.state.eflags & RF) == (5, RF)
    pc.cpu.deliver_external_interrupt(0x40)
    assert pc.stack(3)[2] & RF
    pc.state.rip, pc.state.rsp = CODE + 1, pc.state.rsp + 12
    pc.state.eflags |= RF
    assert isinstance(pc.event(), Halt)
    assert pc.state.eflags & RF == 0


def test_the_shadow_of_mov_ss_holds_a_breakpoint_back() -> None:
    """Vol. 3A §6.8.3: instruction breakpoints on the instruction behind MOV SS are not taken."""
    pc = flat_pc()
    pc.load("8e d0 ; mov ss, eax\n90 ; nop\n90 ; nop\nf4 ; hlt")
    pc.state[EAX] = 0x10
    arm(pc, 0, CODE + 2, EXECUTE)
    assert isinstance(pc.event(), Halt)


def test_a_faulting_instruction_hits_nothing() -> None:
    pc = flat_pc()
    pc.state[EBX], pc.state[ECX], pc.state[EDX] = DATA, 0, 0
    pc.load("f7 33 ; div dword [ebx]")
    arm(pc, 0, DATA, ACCESS, 4)
    assert pc.event() == ExceptionRaised(Vector.DE)
    assert conditions(pc) == 0


def test_a_watched_page_of_code_runs_on() -> None:
    """Fetches are no data accesses, even where all data accesses to the page are refused."""
    pc = flat_pc()
    pc.load("40 ; inc eax\n" * 20 + "f4 ; hlt")
    arm(pc, 0, CODE + 8, ACCESS, 4)
    assert isinstance(pc.event(), Halt)
    assert pc.state[EAX] == 20


def test_the_frame_of_an_interrupt_is_no_hit() -> None:
    pc = flat_pc()
    pc.load("cd 40 ; int 0x40")
    arm(pc, 0, STACK - 4, WRITE, 4)
    pc.run()
    assert (pc.vector, conditions(pc)) == (0x40, 0)


# ------------------------------------------------------------------------------------------------ ports, general detect


@pytest.mark.parametrize(
    ("listing", "condition"),
    [("e6 20 ; out 0x20, al", 1), ("e5 1d ; in eax, 0x1d", 1), ("e6 24 ; out 0x24, al", 0)],
)
@pytest.mark.parametrize("de", [0, 1 << 3])
def test_port_breakpoints(listing: str, condition: int, de: int) -> None:
    """§18.2.4: R/W = 10 breaks on ports while CR4.DE is set; a trap."""
    pc = flat_pc()
    pc.state.set_control_register(4, de)
    pc.load(listing + "\nf4 ; hlt")
    arm(pc, 0, 0x20, PORT, 4)
    pc.run()
    if de and condition:
        assert (pc.vector, conditions(pc), pc.stack(1)[0]) == (1, condition, CODE + 2)
    else:
        assert pc.state.rip == CODE + 2


@pytest.mark.parametrize("listing", ["0f 21 c0 ; mov eax, dr0", "0f 23 f8 ; mov dr7, eax", "0f 21 f0 ; mov eax, dr6"])
def test_general_detect(listing: str) -> None:
    """§18.3.1.3: a fault with DR6.BD and RF in the image; the handler may use the registers."""
    pc = flat_pc()
    pc.state.set_debug_register(7, 0x2400)
    pc.load(listing)
    pc.run()
    assert (pc.vector, pc.stack(1)[0], conditions(pc)) == (1, CODE, BD)
    assert pc.stack(3)[2] & RF
    assert pc.state.debug_register(7) == 0x400
    pc.state.rip = CODE
    pc.state[EAX] = 0x400
    pc.step()
    assert pc.state.rip == CODE + 3


# ------------------------------------------------------------------------------------------------ a debugger's


def test_a_debugger_stops_in_front_of_an_instruction_and_goes_on() -> None:
    pc = flat_pc()
    pc.load("40 ; inc eax\n40 ; inc eax\neb fc ; jmp $-2")
    point = Breakpoint(Gva(CODE + 1))
    breakpoints = pc.cpu.breakpoints
    breakpoints.insert(point)
    for turn in range(3):
        assert pc.event() == DebuggerHit((point,))
        assert breakpoints.hit == (point,)
        assert (pc.state.rip, pc.state[EAX]) == (CODE + 1, 2 * turn + 1)
    breakpoints.remove(point)
    assert pc.event() == LimitReached()
    assert breakpoints.points == breakpoints.hit == ()


@pytest.mark.parametrize(
    ("access", "stops"),
    [(WatchedAccess.WRITE, [CODE + 4]), (WatchedAccess.READ, [CODE + 2]), (WatchedAccess.ACCESS, [CODE + 2, CODE + 4])],
)
def test_a_debugger_stops_behind_an_access(access: WatchedAccess, stops: list[int]) -> None:
    pc = flat_pc()
    pc.state[EBX] = DATA
    pc.load("8b 03 ; mov eax, [ebx]\n89 03 ; mov [ebx], eax\nf4 ; hlt")
    point = Watchpoint(Gva(DATA + 1), 2, access)
    pc.cpu.breakpoints.insert(point)
    for stop in stops:
        assert pc.event() == DebuggerHit((point,))
        assert pc.state.rip == stop
    assert isinstance(pc.event(), Halt)
    assert conditions(pc) == 0, "the guest sees nothing of it"


def test_the_guests_and_the_debuggers_do_not_disturb_each_other() -> None:
    """At one place: the debugger hears of it, then the guest has its exception."""
    pc = flat_pc()
    pc.state[EBX] = DATA
    pc.load("90 ; nop\n89 03 ; mov [ebx], eax\nf4 ; hlt")
    code, data = Breakpoint(Gva(CODE)), Watchpoint(Gva(DATA), 1, WatchedAccess.WRITE)
    pc.cpu.breakpoints.insert(code)
    pc.cpu.breakpoints.insert(data)
    arm(pc, 0, CODE, EXECUTE)
    arm(pc, 1, DATA, WRITE)
    assert pc.event() == DebuggerHit((code,))
    assert pc.event() == ExceptionRaised(Vector.DB, condition=1)
    pc.state.eflags |= RF
    assert pc.event() == ExceptionRaised(Vector.DB, condition=2)
    assert pc.event() == DebuggerHit((data,))
    assert pc.state.rip == CODE + 3
    pc.cpu.breakpoints.clear()
    pc.state.rip = CODE
    assert pc.event() == ExceptionRaised(Vector.DB, condition=1), "clear() left the guest's alone"


def test_debug_registers_of_a_restored_state_are_armed() -> None:
    pc = flat_pc()
    pc.load("90 ; nop\n90 ; nop\nf4 ; hlt")
    arm(pc, 0, CODE + 1, EXECUTE)
    image = pc.engine.save_image()
    pc.state.set_debug_register(7, 0x400)
    assert isinstance(pc.event(), Halt)
    pc.engine.restore_image(image)
    assert pc.event() == ExceptionRaised(Vector.DB, condition=1)


def test_too_many() -> None:
    breakpoints = flat_pc().cpu.breakpoints
    for number in range(256):
        breakpoints.insert(Breakpoint(Gva(number)))
    with pytest.raises(UsageError, match="257 breakpoints: at most 256"):
        breakpoints.insert(Breakpoint(Gva(256)))
    assert len(breakpoints.points) == 256


def test_stepping_over_many_unwatched_bytes_of_a_watched_page() -> None:
    pc = flat_pc()
    body = f"ff 05 {le(DATA + 64)} ; inc dword [DATA + 64]\n49 ; dec ecx\n75 f7 ; jne"
    pc.load(f"b9 {le(300)} ; mov ecx, 300\n{body}\nf4 ; hlt")
    arm(pc, 0, DATA, ACCESS, 4)
    assert isinstance(pc.event(5000), Halt)
    assert pc.read(DATA + 64, 4) == 300
    assert pc.state[ESP] == STACK
