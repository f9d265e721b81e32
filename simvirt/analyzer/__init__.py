"""The analyzer: instruction sets classified against Popek and Goldberg, with evidence for each claim.

`model` has the definitions, generic over a machine; `toys` has machines small enough to prove things on; `cores` runs
other processors on Unicorn; `user` reads a machine that a student wrote; `registry` lists what can be analyzed.
"""
