"""A bzImage of one's own: a setup header by the boot protocol's text, and a kernel proper of a few bytes."""

from __future__ import annotations

import struct

from tests.support.assembler import Assembler

# mov dx, 0xf4; mov eax, 42; out dx, eax; hlt: it runs in 32-bit and in 64-bit mode
EXIT_42 = bytes.fromhex("66ba f400 b8 2a000000 ef f4")
SETUP_CODE = 0x26C
NEEDS = b"This kernel needs another processor."


def complaining_setup_code() -> bytes:
    """It writes `NEEDS` on the screen by the firmware's service, its command line to COM1, and ends the run with 7.

    Or with 1, where the registers are not as the protocol says.
    """
    a = Assembler(SETUP_CODE)
    a.emit("8cd8 3d0090").jump("75", "wrong", 1)  # mov ax, ds; cmp ax, 0x9000
    a.emit("8cd0 3d0090").jump("75", "wrong", 1)  # ss
    a.emit("8cc0 3d0090").jump("75", "wrong", 1)  # es
    a.emit("8cc8 3d2090").jump("75", "wrong", 1)  # cs, 0x200 behind
    a.emit("9c 58 f6c402").jump("75", "wrong", 1)  # pushf; pop ax; test ah, 2: interrupts are disabled
    a.emit("89e0 2b062402 3d0002").jump("75", "wrong", 1)  # mov ax, sp; sub ax, [heap_end_ptr]; cmp ax, 0x200
    a.emit("be").emit((SETUP_CODE + 0x80).to_bytes(2, "little"))  # mov si, NEEDS
    a.label("screen")
    a.emit("ac 84c0").jump("74", "serial", 1)  # lodsb; test al, al
    a.emit("b40e bb0700 cd10").jump("eb", "screen", 1)  # mov ah, 0xe; mov bx, 7; int 0x10
    a.label("serial")
    a.emit("66a12802 66c1e804 8ed8 31f6 baf803")  # mov eax, [cmd_line_ptr]; shr eax, 4; mov ds, ax; xor si, si
    a.label("next")
    a.emit("ac 84c0").jump("74", "end", 1)
    a.emit("ee").jump("eb", "next", 1)
    a.label("wrong")
    a.emit("66b801000000").jump("eb", "out", 1)
    a.label("end")
    a.emit("66b807000000")
    a.label("out")
    a.emit("baf400 66ef f4")
    a.pad_to(SETUP_CODE + 0x80)
    return a.finish() + NEEDS + b"\0"


def make_bzimage(
    kernel: bytes = EXIT_42,
    *,
    version: int = 0x20D,
    load_flags: int = 1,
    extended_load_flags: int = 1,
    initrd_addr_max: int = 0x7FFFFFFF,
    command_line_size: int = 2047,
    preferred_address: int = 0x1000000,
    code32_start: int = 0x100000,
    init_size: int = 0x10000,
    setup_sectors: int = 1,
    setup_code: bytes = b"",
) -> bytes:
    """The kernel is entered at its first byte, or 0x200 behind that: there lies a second copy of it.

    `setup_code` lies from `SETUP_CODE` on, where the jump over the header leads.
    """
    setup = bytearray((setup_sectors + 1) * 512)
    body = kernel.ljust(0x200, b"\x90") + kernel
    setup[0x1F1] = setup_sectors
    struct.pack_into("<I", setup, 0x1F4, -(-len(body) // 16))
    setup[0x1FE:0x202] = b"\x55\xaa\xeb\x6a"  # the flag, and a jump to 0x26C
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    setup[0x211] = load_flags
    struct.pack_into("<I", setup, 0x214, code32_start)
    struct.pack_into("<I", setup, 0x22C, initrd_addr_max)
    struct.pack_into("<IBBHI", setup, 0x230, 0x1000, 1, 0x15, extended_load_flags, command_line_size)
    struct.pack_into("<QI", setup, 0x258, preferred_address, init_size)
    setup[SETUP_CODE : SETUP_CODE + len(setup_code)] = setup_code
    return bytes(setup) + body.ljust(-(-len(body) // 16) * 16, b"\0")
