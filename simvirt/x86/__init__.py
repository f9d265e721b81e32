"""The x86 as facts: registers, flags, descriptors, paging structures, exceptions, MSRs, CPUID, VMX, instructions.

No engine is in here and nothing runs; every value has its source in the manual. Read `registers` and `segments`
first, then `operations` and `sensitivity`, which say what all of this is for.
"""
