"""A bzImage of one's own: a setup header by the boot protocol's text, and a kernel proper of a few bytes."""

from __future__ import annotations

import struct

# mov dx, 0xf4; mov eax, 42; out dx, eax; hlt: it runs in 32-bit and in 64-bit mode
EXIT_42 = bytes.fromhex("66ba f400 b8 2a000000 ef f4")


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
) -> bytes:
    """The kernel is entered at its first byte, or 0x200 behind that: there lies a second copy of it."""
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
    return bytes(setup) + body.ljust(-(-len(body) // 16) * 16, b"\0")
