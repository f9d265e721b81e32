"""Other processors on Unicorn, tried by the same experiments: A32, RV64, 68000.

::

    description   the TOML file of one (isa/arm.toml, …): components, forms, start states, deviations
    machine       pairs of states, and what the engine makes of them
    processor     what the processors have in common: one instruction from one state, on a fresh engine
    arm, riscv, m68k   what is each one's own: modes, banks, which interrupt is which trap
    comparison    what the literature says otherwise, with reasons
"""
