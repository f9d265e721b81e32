"""The page docs/how-to/add-an-instruction-set.md, followed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simvirt.analyzer.finite import schema
from simvirt.analyzer.finite.machine import InstructionFunctionError
from simvirt.analyzer.model.analysis import Analysis, analyze
from simvirt.analyzer.model.properties import Evidence, Property
from simvirt.analyzer.model.theorems import Hypothesis, Theorem
from simvirt.analyzer.registry import find
from simvirt.analyzer.toml_file import TomlFileError


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "how-to" / "add-an-instruction-set.md").read_text()


@pytest.fixture
def files(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the two files of the page, which is the current one."""
    for name in ("timer.py", "timer.toml"):
        block = re.search(rf"^`{re.escape(name)}`:\n\n```\w+\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        assert block is not None
        (tmp_path / name).write_text(block.group(1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def analyzed() -> Analysis:
    row = find("timer.toml")
    return analyze(row.info, row.machine())


def test_the_verdict(files: Path) -> None:
    del files
    found = analyzed()
    verdict = found.theorems()[Theorem.VMM]
    assert verdict.hypothesis is Hypothesis.NOT_MET
    assert verdict.critical == ("timer:startt", "timer:timer")
    assert found.form("timer:startt").holds(Property.SENSITIVE_NO_OP)
    assert found.form("timer:exit").claim(Property.PRIVILEGED).evidence is Evidence.PROVED
    assert all(one.witnesses for one in found.critical())


def test_the_pages_code_runs_and_says_so(page: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del files
    section = page[page.index("## 3.") :]
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
        exec(block, names)
    printed = capsys.readouterr().out
    assert "not-met ('timer:startt', 'timer:timer')" in printed
    assert "timer:timer is configuration-sensitive, user-sensitive-penneman and was declared innocuous" in printed


def test_repaired_as_the_page_says_it_meets_theorem_1(files: Path) -> None:
    module = files / "timer.py"
    text = module.read_text().replace(
        "    if cpu.is_privileged:\n        cpu.TIMER = 1", "    cpu.require_privilege()\n    cpu.TIMER = 1"
    )
    module.write_text(text.replace("    cpu.A = cpu.TIMER", "    cpu.require_privilege()\n    cpu.A = cpu.TIMER"))
    verdict = analyzed().theorems()[Theorem.VMM]
    assert (verdict.hypothesis, verdict.evidence) == (Hypothesis.MET, Evidence.PROVED)


def test_every_field_of_the_page_is_one_and_every_field_is_on_the_page(page: str) -> None:
    tables = {
        "[machine]": schema.MachineTable,
        "[storage]": schema.StorageTable,
        "[[register]]": schema.RegisterTable,
        "[[instruction]]": schema.InstructionTable,
        "[[obstacle]]": schema.ObstacleTable,
        "[[variant]]": schema.VariantTable,
    }
    told: dict[str, set[str]] = {}
    table = ""
    for line in page.splitlines():
        if line.startswith("| ") and line.count("|") >= 4:
            first, fields = (cell.strip() for cell in line.split("|")[1:3])
            table = first.strip("`") or table
            told.setdefault(table, set()).update(re.findall(r"`([\w-]+)`", fields))
    for name, kind in tables.items():
        there = {field.replace("_", "-") for field in kind.__struct_fields__}
        as_in_machine = {"remarks", "timing-free-vmm"} if name == "[[variant]]" else set()
        assert told[name] == there - as_in_machine, name


@pytest.mark.parametrize(
    ("old", "new", "line_of", "message"),
    [
        (
            'encoding = "2:3 3:2"',
            'encoding = "2:3 2:2"',
            'encoding = "2:3 2:2"\nsource = "exercise sheet 3"\nprivileged = true',
            "overlaps TIMER of line",
        ),
        ('encoding = "1:3 a:2"', 'encoding = "1:3 a:1"', 'encoding = "1:3 a:1"', "accounts for 4 of the 5 bits"),
        ('encoding = "1:3 a:2"', 'encoding = "9:3 a:2"', 'encoding = "9:3 a:2"', "9 does not fit into 3 bits"),
        (
            'encoding = "1:3 a:2"',
            'encoding = "1:3 b:2"',
            'encoding = "1:3 b:2"',
            r"is store\(cpu, b\), not store\(cpu, a\) as in line 10 of timer.py",
        ),
        (
            'encoding = "1:3 a:2"',
            'encoding = "1:3 a"',
            'encoding = "1:3 a"',
            "'a' is neither VALUE:BITS nor OPERAND:BITS",
        ),
        (
            'function = "timer_on"',
            'function = "timer_off"',
            '[[instruction]]\nmnemonic = "TIMER"',
            r"timer.py has no function timer_off\(cpu\)",
        ),
        ('title = "stop the timer"\n', "", '[[instruction]]\nmnemonic = "STOPT"', "missing field `title`"),
        (
            'title = "stop the timer"',
            'titel = "stop the timer"',
            "titel",
            "unknown field `titel`|missing field `title`",
        ),
        ('part = "C"', 'part = "K"', 'part = "K"', "'K' is none of M, P, R, G, C, A"),
        ('user = "user"', 'user = "usr"', 'user = "usr"', "M has no value usr"),
        ('counter = "P"', 'counter = "PC"', 'counter = "PC"', r"there is no \[\[register\]\] 'PC'"),
        (
            'mnemonic = "STORE"',
            'mnemonic = "LOAD"',
            '[[instruction]]\nmnemonic = "LOAD"\ntitle = "word := A"',
            "LOAD is there already",
        ),
        ('module = "timer.py"', 'module = "time.py"', 'module = "time.py"', "there is no file"),
        ("privileged = false\nproperties = []", 'properties = ["sensible"]', "properties", "'sensible' is none of"),
        ("word = 5", "word = ", "word = ", "not TOML"),
        ("bits = 2", 'bits = "address"', 'bits = "address"', r"\[sizes\] has no 'address'"),
    ],
)
def test_a_malformed_file_leads_to_the_line(files: Path, old: str, new: str, line_of: str, message: str) -> None:
    path = files / "timer.toml"
    text = path.read_text()
    assert old in text
    changed = text.replace(old, new, 1)
    path.write_text(changed)
    with pytest.raises(TomlFileError, match=message) as raised:
        find("timer.toml")
    line = changed[: changed.index(line_of)].count("\n") + 1
    assert f"timer.toml:{line}: " in str(raised.value)


def test_a_source_may_not_be_empty_and_all_problems_are_told_at_once(files: Path) -> None:
    path = files / "timer.toml"
    path.write_text(path.read_text().replace('source = "exercise sheet 3"', 'source = ""'))
    with pytest.raises(TomlFileError) as raised:
        find("timer.toml")
    assert str(raised.value).count("source: says where this instruction is described, and is empty") == 6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "cpu.A = cpu.TIMER",
            "cpu.B = cpu.TIMER",
            r"timer.py:\d+: TIMER: AttributeError: the machine has no register B",
        ),
        ('cpu.M = "user"', 'cpu.M = "u"', r"timer.py:\d+: EXIT: ValueError: register M holds supervisor or user"),
        ("cpu.A = cpu.TIMER", "cpu.A = 1 // 0", r"timer.py:\d+: TIMER: ZeroDivisionError"),
        ("cpu.A = cpu.TIMER", "open('nowhere')", r"timer.py:\d+: TIMER: FileNotFoundError"),
    ],
)
def test_an_error_in_a_function_leads_to_its_line(files: Path, old: str, new: str, message: str) -> None:
    module = files / "timer.py"
    text = module.read_text().replace(old, new)
    module.write_text(text)
    with pytest.raises(InstructionFunctionError, match=message) as raised:
        analyzed()
    assert raised.value.line == 1 + text[: text.index(new)].count("\n")


@pytest.mark.parametrize("body", ["cpu.A = random.getrandbits(5)", "seen.append(1)\n    cpu.A = len(seen)"])
def test_an_instruction_that_is_no_function_of_the_state_is_found_out(files: Path, body: str) -> None:
    module = files / "timer.py"
    text = module.read_text().replace("cpu.A = cpu.TIMER", body)
    module.write_text(f"import random\n\nseen = []\n{text}")
    with pytest.raises(InstructionFunctionError, match=r"timer.py:\d+: TIMER: it came to another result"):
        analyzed()


def test_a_module_that_is_no_python_leads_to_its_line(files: Path) -> None:
    module = files / "timer.py"
    module.write_text(module.read_text() + "\ndef broken(:\n")
    with pytest.raises(TomlFileError, match=r"timer.py:\d+: not Python"):
        find("timer.toml")
    module.write_text("import nowhere_to_be_found\n")
    with pytest.raises(TomlFileError, match=r"timer.py:1: ModuleNotFoundError"):
        find("timer.toml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TomlFileError, match="No such file"):
        find(str(tmp_path / "nothing.toml"))
