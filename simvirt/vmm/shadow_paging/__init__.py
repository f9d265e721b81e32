"""Shadow page tables: how a VMM without nested paging virtualizes the memory-management unit.

The real CR3 points to tables of the VMM's, which map guest-virtual straight to host-physical addresses. They are filled
on demand, from the guest's own tables, and never hold more than those::

    real #PF ──> ShadowMmu.meet ──> GuestWalk of the guest's tables
                    │
                    ├── the guest's tables refuse it    a true fault: the guest gets it, with its own error code
                    ├── no memory answers there         the bus gives ones
                    ├── a write to a traced page        the one instruction runs, then the shadows follow (`sync`)
                    └── granted                         a hidden fault: flags are set, `ShadowCache.fill`

The guest's tables are traced while a shadow of them exists: their pages are write-protected, so a shadow is never
stale, INVLPG and MOV to CR3 have nothing to do, and shadows outlive address-space switches (Adams and Agesen 2006 §2).
A page is writable in the shadows only once the guest's dirty flag is set, so the flag is set by the first write, as the
processor would.

* `guest_walk`: a walk of the guest's tables, in any of the manual's formats; pure
* `guest_physical`: the guest's physical memory, as a walk reads it and as flags are set in it
* `shadow_table`: one shadow table and what it is the shadow of
* `cache`: all shadow tables, who links to whom, which entries map a guest page; fills and sync
* `shadow_mmu`: the guest's memory-management unit on top of it: roots, faults, tracing
"""
