"""Exit codes, JSON, errors and interrupts of the command."""

import io
import json
import os
import subprocess
import sys

import pytest
from command_runs import answer, refusal, run
from conftest import ROOT

from speechbrain_ext.cli import pretrained
from speechbrain_ext.cli.answer import Answer
from speechbrain_ext.cli.main import main


def environment():
    """The environment without the log level that other tests may have set."""
    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    found.pop("SB_LOG_LEVEL", None)
    return found


def test_an_error_is_one_sentence_and_json(capsys, tmp_path):
    said = refusal(capsys, "info", tmp_path)
    assert f"{tmp_path} has no hyperparams.yaml" in said
    code, values = answer(capsys, "info", tmp_path)
    assert code == 2 and values["command"] == "info"
    assert values["error"] == said.removeprefix("error: ").strip()


def test_an_option_may_have_underscores(capsys, tmp_path):
    words = ["verify", tmp_path / "a_b.wav", "b", f"--encoder={tmp_path}"]
    said = refusal(capsys, *words, "--p_target=0.5", "--trust")
    assert f"{tmp_path / 'a_b.wav'} does not exist" in said


def test_an_interrupt_is_one_line(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained, "info", interrupted)
    assert run(capsys, "info", "f") == (130, "", "error: Interrupted.\n")


def test_a_fault_of_the_program_is_no_answer(capsys, monkeypatch):
    def wrong(arguments):
        raise KeyError("a")

    monkeypatch.setattr(pretrained, "info", wrong)
    code, out, said = run(capsys, "info", "f")
    assert (code, out) == (2, "") and "Traceback" in said
    assert answer(capsys, "info", "f")[1]["error"] == "KeyError('a')"


@pytest.mark.parametrize("name", ["Zoë", "Zo\udceb"])
def test_any_file_name_is_written_to_any_terminal(name, monkeypatch):
    def named(arguments):
        return Answer(name, {"name": name})

    monkeypatch.setattr(pretrained, "info", named)
    said = []
    for option in ([], ["--json"]):
        buffer = io.BytesIO()
        terminal = io.TextIOWrapper(buffer, encoding="ascii")
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(["info", "f", *option]) == 0
        said.append(buffer.getvalue().decode("ascii"))
    assert said[0].startswith("Zo\\")
    assert json.loads(said[1])["name"] == name


def test_a_process_prints_json_alone(exported, corpus, tmp_path):
    files = sorted((corpus / "wav").rglob("*.wav"))[:2]
    words = ["verify", *files, "--encoder", exported, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "speechbrain_ext", *words],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    values = json.loads(done.stdout)
    assert done.returncode == values["exit_code"] == 0
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_no_error(exported, tmp_path):
    command = [sys.executable, "-m", "speechbrain_ext", "info", str(exported)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
