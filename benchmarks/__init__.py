"""How fast simvirt is: measurements taken side by side in one run, printed as tables and written as JSON.

`python -m benchmarks` (or `make bench`) runs all of them. README.md in this folder says what is measured and how;
docs/performance.md has the figures of one machine.
"""
