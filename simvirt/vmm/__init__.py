"""What VMMs are built from: the parts that Popek and Goldberg name, for a VMM that runs the guest de-privileged.

::

    dispatcher (one for each strategy) ──> allocator      who gets which memory: `allocator`, `guest_memory`
                                      └──> interpreter    what a trapped instruction does: `interpreter`

`deprivileged_state` is the VM map between the guest's processor and the real one, `virtual_cpu` a processor on top of
it, and `shadow_descriptors` keeps the real descriptor tables in step with the guest's. What the interpreter does about
segments and far transfers is in
`guest_segment_loads` and `guest_far_transfers`.
`exit_log` is what every strategy writes its interventions to.
"""
