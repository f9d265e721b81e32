"""The native callbacks: the compiled library, found and checked."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

from simvirt.errors import EngineError
from simvirt.machine.native.layout import CHECKED_MEMBERS, SharedRecord

if TYPE_CHECKING:
    from simvirt.machine import platforms


class NativeLibrary:
    """The native callbacks, loaded once."""

    _loaded: NativeLibrary | None = None

    def __init__(self, platform: platforms.Platform) -> None:
        path = Path(__file__).parent / f"engine{platform.library_suffix}"
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise EngineError(
                f"the native callbacks cannot be loaded ({error}): the package was not built for this platform. "
                "Install it again with pip."
            ) from error
        self.run = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("simvirt_run", library))
        self.translate = ctypes.CFUNCTYPE(
            ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int, ctypes.c_int, ctypes.c_int
        )(("simvirt_translate", library))
        deliver = ctypes.CFUNCTYPE(
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint64,
            ctypes.c_int64,
            ctypes.c_int,
            ctypes.c_uint64,
        )
        self.deliver = deliver(("simvirt_deliver", library))
        self.interrupt = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)(
            ("simvirt_interrupt", library)
        )
        self.deliver_to_guest = deliver(("simvirt_deliver_to_guest", library))
        self.guest_iret = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("simvirt_guest_iret", library))
        self.load_pdptes = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64)(
            ("simvirt_load_pdptes", library)
        )
        self.flush_tlb = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(("simvirt_flush_tlb", library))
        self.flush_translations = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(("simvirt_flush_translations", library))
        self.drop_code = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)(
            ("simvirt_drop_code", library)
        )
        self.survive_aborts = ctypes.CFUNCTYPE(None)(("simvirt_survive_aborts", library))
        self.absent_device = (library.simvirt_absent_read, library.simvirt_absent_write)
        self.hooks = {
            name: ctypes.cast(getattr(library, f"simvirt_{name}_hook"), ctypes.c_void_p).value
            for name in ("fill", "edge", "block", "interrupt", "in", "out", "syscall", "sysenter", "invalid")
        }
        offsets = (ctypes.c_uint64 * 64)()
        count = library.simvirt_layout(offsets)
        expected = [getattr(SharedRecord, name).offset for name in CHECKED_MEMBERS] + [ctypes.sizeof(SharedRecord)]
        if list(offsets[:count]) != expected:
            raise EngineError(
                "the native callbacks were built from another version of simvirt: install the package again"
            )

    @classmethod
    def load(cls, platform: platforms.Platform) -> NativeLibrary:
        """The library, loaded at the first call.

        :raises EngineError: it is missing, or built from another version.
        """
        if cls._loaded is None:
            cls._loaded = cls(platform)
        return cls._loaded
