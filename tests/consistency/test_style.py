"""The linters of `make lint`, which `make test` runs too."""

import subprocess
import sys
import warnings

import pytest
from conftest import RECIPE, ROOT

COMMANDS = {
    "ruff": ["ruff", "check", "--no-cache", "."],
    "format": ["ruff", "format", "--check", "--no-cache", "."],
    "yamllint": ["yamllint", "--strict", "hparams"],
    "codespell": ["codespell_lib"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_linter_finds_nothing(command):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", ["speechbrain_ext", "tests", RECIPE])
def test_warnings_of_our_own_code_are_errors(folder):
    modules = [
        path.stem if folder != "speechbrain_ext" else f"{folder}.{path.stem}"
        for path in (ROOT / folder).rglob("*.py")
        if "speechbrain_stand_in" not in path.parts
    ]
    assert len(modules) > 5
    for module in modules:
        with pytest.raises(UserWarning):
            warnings.warn_explicit("", UserWarning, "", 1, module)
