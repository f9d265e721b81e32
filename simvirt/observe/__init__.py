"""What a run shows: results as values, the three properties with their evidence, traces, costs and post-mortems.

::

    run, compare ──> Trial (a machine under way) ──> Run, Comparison
                        │ exits                        │ to_json, print, Jupyter
                        └──> trace: kvm_exit lines, JSON lines, Perfetto

Nothing here knows a guest or a strategy by name, and nothing here prints.
"""
