"""The command line: what a person types and sees.

::

    main ── parser ──> one module per command ──> the library ──> text (table) or one JSON object

Nothing here computes: a command turns words into arguments, calls what `import simvirt` offers as well, and prints the
value that comes back. Results go to standard output, messages to standard error, and the exit status is 0, 2 or 3
(`simvirt.cli.status`). A command's module imports what it needs when it is executed, so that `simvirt --help` loads
next to nothing.
"""

from __future__ import annotations
