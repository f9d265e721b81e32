"""Popek and Goldberg's model, with what Penneman et al. add to it, and the definitions over it.

Popek & Goldberg 1974: "Formal Requirements for Virtualizable Third Generation Architectures", CACM 17(7). Penneman et
al. 2013: "Formal virtualization requirements for the ARM architecture", Journal of Systems Architecture 59(3).

::

    state            what a state consists of, as data: which register belongs to M, R, C, A
    outcome          what executing one instruction from one state came to: completed, trapped, called the supervisor
    form             one encoding of an instruction, with what manuals declare about it
    experiment       a pair of states that differ in one component, what came of both, and the witness
    properties       the words: properties, readings, kinds of evidence
    definitions      the papers' definitions, each a predicate on one such observation, in two readings
    no_op            the sensitive no-op, which one pair is not enough to tell
    classification   claims with their evidence
    classify         from observations to claims
    theorems         from claims to what the theorems say
    machine_model    what a machine has to offer to be classified
    analysis         the whole: what commands and notebooks print
"""
