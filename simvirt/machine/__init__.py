"""The PC: memory, devices and one processor, and the loop that runs them in step.

::

    Machine ── Board (devices, port bus, events, clock)
       └────── Processor ── Cpu ── Engine (Unicorn and the native callbacks)
                                     events ──> completion: what the hardware does with each

`machine` holds the loop and `pc` the bare PC, which is the place to start reading. `engine` executes instructions,
`cpu` makes typed `events` of what the engine does not settle, and `completion` answers them as the processor does.
`board` wires the `devices`. `vmx` is the processor's VMX operation. Nothing here knows a guest or a VMM.
"""
