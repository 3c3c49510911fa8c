"""``python -m speechbrain_ext``: the same command."""

import runpy
import sys

import pytest


def test_the_package_can_be_run(monkeypatch, capsys, tmp_path):
    folder = str(tmp_path / "no")
    monkeypatch.setattr(sys, "argv", ["speechbrain_ext", "info", folder])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("speechbrain_ext", run_name="__main__")
    assert ended.value.code == 2
    assert "has no hyperparams.yaml" in capsys.readouterr().err
