"""A guest of one's own to start from: a source that runs, the header it includes, and how to build and run it."""

from __future__ import annotations

import re
import shutil
from enum import Enum
from pathlib import Path
from string import Template
from typing import Final

from simvirt.errors import UsageError
from simvirt.guests.build import RUNTIME

HEADER: Final = "guest.h"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


class Language(Enum):
    """What the template is written in; the value is the source's suffix."""

    ASSEMBLY = ".S"
    C = ".c"


_C: Final = Template("""\
/* $name: a guest of your own. guest.h says what there is to use. */
#include "guest.h"

static void on_breakpoint(struct frame *frame) {
    put_string("breakpoint before ");
    put_hex(frame->eip, 8);
    put_char('\\n');
}

u32 guest_main(void) {
    put_string("$name runs in ring 0.\\n");
    install_handler(3, on_breakpoint);
    __asm__ volatile("int3");
    return 0; /* the guest's status */
}
""")

_ASSEMBLY: Final = Template("""\
/* $name: a guest of your own. guest.h says what there is to use.
 *
 * Arguments go on the stack, the last one first; results come back in EAX. AT&T syntax; for Intel's put
 * `.intel_syntax noprefix` on a line of its own.
 */
#include "guest.h"

    .text
    .globl guest_main
guest_main:
    pushl $$greeting
    call put_string
    addl $$4, %esp

    pushl $$on_breakpoint
    pushl $$3
    call install_handler
    addl $$8, %esp
    int3

    xorl %eax, %eax           /* the guest's status */
    ret

on_breakpoint:                /* called with a pointer to struct frame */
    pushl $$handled
    call put_string
    addl $$4, %esp
    ret

    .section .rodata
greeting:
    .asciz "$name runs in ring 0.\\n"
handled:
    .asciz "breakpoint\\n"

    .section .note.GNU-stack, "", @progbits
""")

_README: Final = Template("""\
# $name

In the folder above this one:

    simvirt build $name
    simvirt run $name/$name.elf
    simvirt compare $name/$name.elf

The source is `$source`. `$header` is a copy, for reading; the functions that it declares are linked in by
`simvirt build`.
""")


def new(name: str, directory: Path | str = ".", language: Language = Language.C) -> tuple[Path, ...]:
    """Writes a new guest's files into a folder ``name`` of the directory: the source, ``guest.h`` and a README.

    :returns: the files written, the source first.
    :raises UsageError: the name makes no file name, or there is something of that name already; nothing is overwritten.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot be a guest's name; start with a letter and go on with letters, digits, '-' and '_'"
        )
    folder = Path(directory) / name
    source = folder / f"{name}{language.value}"
    text = (_C if language is Language.C else _ASSEMBLY).substitute(name=name)
    readme = _README.substitute(name=name, source=source.name, header=HEADER)
    try:
        folder.mkdir(parents=True)
        source.write_text(text, encoding="utf-8")
        shutil.copyfile(RUNTIME / HEADER, folder / HEADER)
        folder.joinpath("README.md").write_text(readme, encoding="utf-8")
    except FileExistsError:
        raise UsageError(f"{folder} exists already; choose another name or directory") from None
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}; choose another directory") from None
    return source, folder / HEADER, folder / "README.md"
