"""What single operations cost under every strategy: counted, modelled by cost presets, and measured.

`benchmark` tells what is measured (``isa/benchmarks.toml``), `measurement` runs it and makes an `expense` of one
operation under one strategy, `model` prices that by a preset, and `results` is the table, which `show` and `plot` draw.
"""
