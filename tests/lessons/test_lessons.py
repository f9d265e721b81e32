"""Every lesson runs as it stands, quotes no result that a cell does not compute, and its notebook is the same text."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import nbformat
import pytest
from nbclient import NotebookClient

from tests.lessons.refresh_notebooks import LESSONS, LINK, ROOT, notebook_path, notebook_text

FENCE: Final = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
RESULT: Final = re.compile(
    r"""\d\s?%                      # a share
    | \d,\d{3}                      # a large number
    | \b\d+\.\d+(?!\.)              # a measure; a section number of a manual has a sign in front of it
    | \b\d{2,}\ (?:exits?|cycles?|instructions?|times|seconds|interventions?)""",
    re.VERBOSE,
)
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.parent.name)


def blocks(lesson: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(lesson.read_text(encoding="utf-8")) if name == language]


def prose(lesson: Path) -> str:
    """What is read and not run."""
    return FENCE.sub("", lesson.read_text(encoding="utf-8"))


def test_there_are_lessons() -> None:
    assert LESSONS
    assert {notebook_path(lesson) for lesson in LESSONS} == set((ROOT / "notebooks").glob("*.ipynb"))


@each_lesson
def test_the_notebook_is_the_lesson(lesson: Path) -> None:
    assert notebook_path(lesson).read_text(encoding="utf-8") == notebook_text(lesson), (
        "lesson and notebook differ: edit the lesson, then run python tests/lessons/refresh_notebooks.py"
    )


@each_lesson
def test_every_python_block_is_a_cell(lesson: Path) -> None:
    cells = nbformat.reads(notebook_text(lesson), as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert code == [block.strip("\n") for block in blocks(lesson, "python")]
    assert all("outputs" not in cell or not cell.outputs for cell in cells)


@each_lesson
def test_links_lead_to_files(lesson: Path) -> None:
    for folder, text in ((lesson.parent, prose(lesson)), (ROOT / "notebooks", notebook_text(lesson))):
        missing = [link for link in LINK.findall(text) if not (folder / link).resolve().exists()]
        assert not missing


@each_lesson
def test_the_text_quotes_no_results(lesson: Path) -> None:
    assert RESULT.findall(prose(lesson)) == []


@pytest.mark.parametrize("quoted", ["92.3 %", "98%", "2,006,238", "157.11 times", "at 170 exits", "after 4096 cycles"])
def test_a_quoted_result_would_be_noticed(quoted: str) -> None:
    assert RESULT.search(quoted)


@pytest.mark.timeout(60)  # what a lesson may take, starting the kernel included
@each_lesson
def test_the_notebook_runs_and_the_lesson_s_claims_hold(lesson: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(notebook_path(lesson), as_version=4)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [(cell.source, output) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    errors = [output.text for _, output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not [text for text in errors if "font cache" not in text]  # matplotlib builds that when first used
    lines = [line for _, output in outputs if output.output_type == "stream" for line in output.text.splitlines()]
    assert not [line for line in lines if line.startswith("BROKEN")]
    assert len([line for line in lines if line.startswith("holds")]) >= 5
    figures = sum("plt.subplots" in cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert sum("image/png" in output.get("data", {}) for _, output in outputs) == figures


@each_lesson
def test_commands_run(lesson: Path, tmp_path: Path) -> None:
    for block in blocks(lesson, "console"):
        for line in block.splitlines():
            match = re.fullmatch(r" *\$ simvirt (.+)", line)
            assert match, f"not a command that this test can run: {line}"
            command = [sys.executable, "-m", "simvirt", *match[1].split()]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
