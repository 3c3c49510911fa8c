"""The package's modules import each other in one direction."""

import ast
import re
from graphlib import TopologicalSorter

from conftest import ROOT

PACKAGE = ROOT / "speechbrain_ext"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
# Lowest first. A folder may import itself and what stands before it.
LAYERS = (
    "utils",
    "dataio",
    "nnet",
    "augment",
    "lobes",
    "processing",
    "inference",
    "integrations",
    "synthetic",
    "core",
    "fine_tuning",
    "label_filtering",
    "training_checks",
    "cli",
    "__main__",
)
# A fixed name of version 0.1, which re-exports the readers of checkpoints
UPWARD = {("speechbrain_ext.utils.conversion", "integrations")}


def imported(tree):
    """Names of this package that a module imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n in MODULES else node.module for n in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (n for n in names if n.startswith("speechbrain_ext."))


IMPORTS = {
    name: set(imported(ast.parse(path.read_text("utf-8")))) & set(MODULES)
    for name, path in MODULES.items()
}


def upward(imports):
    """Pairs of a module and a higher folder that it imports."""
    return {
        (name, other.split(".")[1])
        for name, others in imports.items()
        for other in others
        if LAYERS.index(name.split(".")[1]) < LAYERS.index(other.split(".")[1])
    }


def test_no_circle():
    assert len(IMPORTS) > 80
    assert len(list(TopologicalSorter(IMPORTS).static_order())) == len(MODULES)


def test_no_import_runs_upward():
    assert upward(IMPORTS) == UPWARD


def test_an_upward_import_is_found():
    wrong = {"speechbrain_ext.utils.files": {"speechbrain_ext.dataio.crops"}}
    assert upward(wrong) == {("speechbrain_ext.utils.files", "dataio")}


def test_contributing_shows_the_layers_in_their_order():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    shown = re.findall(r"^    (\w+)(?:/|\.py) {2,}\w", text, re.MULTILINE)
    assert tuple(reversed(shown)) == LAYERS
