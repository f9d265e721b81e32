"""The x86 as a machine that experiments run on: its instruction sets, its state in terms of the model, its processor.

::

    variants      which instruction sets there are, their configuration, and what a VMM sets
    components    what the state consists of, and which part of the model each piece is
    layout        where everything lies in memory
    situations    what an instruction finds to work on
    machine       start states, pairs of them, and running an instruction from one
    declared      what is written about each form, and where
    groups        the headings of tables
    comparison    what is written against what was observed
"""
