"""Trap-and-emulate: the guest's kernel runs in ring 1, and privileged instructions trap into the VMM.

Read `strategy` first: it says in which order the rest is best read.
"""
