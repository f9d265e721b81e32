"""Writes the notebooks anew from the lessons' texts: ``python tests/lessons/refresh_notebooks.py``.

``lessons/NN-name/lesson.md`` is the source. Its Python blocks become code cells, all else becomes text, and links that
start from the lesson's folder are made to start from ``notebooks/``. Outputs are never stored: they would be results
that nobody computes any more.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

import jupytext
import nbformat

ROOT: Final = Path(__file__).resolve().parents[2]
LESSONS: Final = tuple(sorted(ROOT.glob("lessons/[0-9][0-9]-*/lesson.md")))
LINK: Final = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s]+(?=\))")
"""The target of a Markdown link to a file."""

_METADATA: Final = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook_path(lesson: Path) -> Path:
    return ROOT / "notebooks" / f"{lesson.parent.name}.ipynb"


def notebook_text(lesson: Path) -> str:
    """What the lesson's notebook has to be, to the byte."""
    folder = notebook_path(lesson).parent

    def from_notebooks(link: re.Match[str]) -> str:
        return Path(os.path.relpath(lesson.parent / link[0], folder)).as_posix()

    notebook = jupytext.reads(lesson.read_text(encoding="utf-8"), fmt="md")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(_METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(from_notebooks, cell.source)
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook)) + "\n"


def main() -> None:
    for lesson in LESSONS:
        path = notebook_path(lesson)
        path.write_text(notebook_text(lesson), encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
