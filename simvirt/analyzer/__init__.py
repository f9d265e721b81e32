"""The analyzer: instruction sets classified against Popek and Goldberg, with evidence for each claim.

`model` has the definitions, generic over a machine; `toys` has machines small enough to prove things on; `finite`
describes such machines, a student's own among them; `cores` runs other processors on Unicorn, `x86` the PC's own;
`probe` sweeps over all forms, `report` shows what came of it; `registry` lists what can be analyzed.
"""
