"""The ways to run a guest: one module or package each, and the registry that lists them.

`strategy` says what a strategy is, `registry` which there are. `bare_metal` has no VMM and is the reference;
`trap_and_emulate` runs the guest's kernel in ring 1; `vtx` runs it in VMX non-root mode.
"""
