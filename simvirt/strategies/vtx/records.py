from __future__ import annotations
def exit_record(*a): raise NotImplementedError
