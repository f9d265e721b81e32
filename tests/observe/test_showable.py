"""A result is shown once, wherever it is shown."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from simvirt.observe.session import compare, run
from tests.observe.faulty import Faulty


def test_a_notebook_shows_a_result_once() -> None:
    cells = [
        nbformat.v4.new_code_cell('import simvirt\nresult = simvirt.run("hello")\nresult'),
        nbformat.v4.new_code_cell("print(result)"),
        nbformat.v4.new_code_cell('simvirt.compare("hello", "vtx")'),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3").execute()
    last, printed, compared = (cell.outputs for cell in notebook.cells)
    assert [output.output_type for output in last] == ["execute_result"]
    assert set(last[0].data) == {"text/plain", "text/html"}
    assert [output.output_type for output in printed] == ["stream"]
    assert printed[0].text.count("Hello from ring 0.") == 1
    assert [output.output_type for output in compared] == ["execute_result"]


def test_a_text_has_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in str(run("hello", "vtx"))


def test_a_repr_is_one_line() -> None:
    assert repr(run("hello")) == (
        "<Run of hello under bare-metal: finished, guest status 0, 267 instructions, 0 exits>"
    )
    assert repr(run("triple-fault")).startswith("<Run of triple-fault under bare-metal: triple-fault, 361 instr")
    assert repr(compare("hello", [Faulty()])) == "<Comparison of hello with bare-metal: faulty equivalent>"
