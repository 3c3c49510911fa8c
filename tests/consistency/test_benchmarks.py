"""`make bench` knows every program in benchmarks/."""

import importlib
import sys

import pytest
from conftest import ROOT


@pytest.fixture
def bench(monkeypatch):
    """The program that runs all benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("all", "record"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("all")
    for name in ("all", "record"):
        sys.modules.pop(name, None)


def test_every_program_is_listed(bench):
    paths = (ROOT / "benchmarks").glob("*.py")
    # those of `make gpu-check` are apart
    programs = {path.stem for path in paths if path.stem[:3] != "gpu"}
    assert set(bench.PROGRAMS) | set(bench.OTHERS) == programs
    assert not set(bench.PROGRAMS) & set(bench.OTHERS)


def test_every_benchmark_has_the_options_it_is_given(bench):
    for name, needs in bench.PROGRAMS.items():
        text = (ROOT / "benchmarks" / f"{name}.py").read_text("utf-8")
        assert "parser(__doc__" in text, name  # --quick and --json
        for option in (*needs, *bench.USEFUL.get(name, ())):
            if option in bench.OPTIONS:
                assert f'"--{option}"' in text, (name, option)


def test_what_is_missing_is_named(bench, monkeypatch):
    monkeypatch.setitem(bench.PROGRAMS, "data", ("data_folder", "no_package"))
    given = dict.fromkeys(bench.OPTIONS)
    said = ["--data_folder", "the package no_package"]
    assert list(bench.missing("data", given)) == said
    assert list(bench.missing("losses", given)) == []


def test_the_table(bench):
    row = {"name": "rate", "value": 1234.5, "unit": "files/s"}
    low = row | {"value": 0.12345, "bound": 2, "holds": False}
    made = bench.table([("a", row), ("b", low)], [("c", "skipped: needs d")])
    assert "| a | rate | 1,234 | files/s |  |" in made
    assert "| b | rate | 0.1235 | files/s | 2 DOES NOT HOLD |" in made
    assert made.endswith("\n\n- c: skipped: needs d")
    assert "cores" in made.splitlines()[0] and "commit" in made
