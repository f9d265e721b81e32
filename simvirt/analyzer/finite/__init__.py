"""Machines of finitely many states: a description in TOML, one Python function per instruction, proofs by trying all.

::

    description   what such a machine consists of, as values
    loader        reads the TOML file and proves it well-formed; errors say file and line
    text          where in a TOML file something stands
    processor     what an instruction's function sees of the machine
    choices       trying all states of which it matters what they hold
    machine       the machine as the definitions want it
    encoding      from operands to words and back
    assembler     from text to words, by the description

Toys and users' own machines are the same thing here.
"""
