"""Does what docs/how-to/add-a-lesson.md says: its example becomes a notebook, runs, and its claims hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import nbformat
from nbclient import NotebookClient

from tests.lessons.refresh_notebooks import notebook_text
from tests.lessons.test_lessons import RESULT, prose

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "how-to" / "add-a-lesson.md"
TEXT: Final = PAGE.read_text(encoding="utf-8")


def _example(folder: Path) -> Path:
    (block,) = re.findall(r"^````markdown\n(.*?)^````$", TEXT, re.MULTILINE | re.DOTALL)
    lesson = folder / "lesson.md"
    lesson.write_text(block, encoding="utf-8")
    return lesson


def test_the_example_is_a_lesson_as_the_page_wants_it(tmp_path: Path) -> None:
    lesson = _example(tmp_path)
    assert RESULT.findall(prose(lesson)) == []
    notebook = nbformat.reads(notebook_text(lesson), as_version=4)
    assert [cell.cell_type for cell in notebook.cells if cell.cell_type == "code"] == ["code"] * 3
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    lines = "".join(o.text for cell in notebook.cells for o in cell.get("outputs", ()) if o.output_type == "stream")
    assert lines.count("holds ") >= 5
    assert "BROKEN" not in lines


def test_links_of_the_example_lead_from_a_lesson_to_files(tmp_path: Path) -> None:
    links = re.findall(r"\]\((\.\./\.\./[^)]+)\)", _example(tmp_path).read_text(encoding="utf-8"))
    assert links
    assert all((ROOT / "lessons" / "01-what-a-vmm-is" / link).resolve().exists() for link in links)


def test_the_files_that_the_page_names_exist() -> None:
    names = set(re.findall(r"`((?:simvirt|tests|docs|lessons)/[\w./-]+)`", TEXT)) - {"lessons/NN-name/lesson.md"}
    assert len(names) > 3
    assert not [name for name in names if not (ROOT / name).exists()]
