"""A stub of the GDB remote serial protocol: a stock gdb looks at a guest, and takes it forward and back.

::

    gdb <── connection ── packets ── session ── target ──> observe.Timeline
                                        │          └── registers, description
                                        └── monitor

`connection` moves bytes, `packets` frames them, `session` answers each packet from one table, `target` says what the
answers mean to a machine here. The protocol is that of the manual "Debugging with GDB", appendix "GDB Remote Serial
Protocol". docs/debugging.md tells how to use it.
"""
