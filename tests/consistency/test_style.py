"""The linters of `make lint`, which `make test` runs too."""

import subprocess
import sys

import pytest
from conftest import ROOT

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
