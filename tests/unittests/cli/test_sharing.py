"""push and pull: what they pass on, and what they print."""

import importlib.util
import pathlib
import sys
from types import SimpleNamespace

import pytest
from command_runs import answer, refusal, run

HUB = "speechbrain_ext.integrations.hub"


@pytest.fixture
def calls(monkeypatch):
    """The calls of a module that stands in for the Hub's."""
    made = []

    def push(*given, **named):
        made.append((given, named))
        return "https://huggingface.co/o/n"

    def pull(*given, **named):
        made.append((given, named))
        return pathlib.Path(given[1] or "cache")

    monkeypatch.setitem(sys.modules, HUB, SimpleNamespace(push=push, pull=pull))
    return made


def test_push_passes_its_options_on(calls, capsys):
    words = ["push", "pretrained", "o/n", "--private", "--revision=v1"]
    code, values = answer(capsys, *words, "--message=first")
    assert code == 0 and values["url"] == "https://huggingface.co/o/n"
    named = {"private": True, "revision": "v1", "message": "first"}
    assert calls == [(("pretrained", "o/n"), named)]
    _, text, _ = run(capsys, "push", "pretrained", "o/n")
    assert text == "pretrained is at https://huggingface.co/o/n\n"
    assert not calls[1][1]["private"]


def test_pull_passes_its_options_on(calls, capsys):
    _, values = answer(capsys, "pull", "o/n", "here", "--offline")
    assert values["folder"] == "here"
    assert calls == [(("o/n", "here"), {"revision": None, "offline": True})]
    _, text, _ = run(capsys, "pull", "o/n", "--revision=v1")
    assert text == "o/n is in cache\n"
    assert calls[1] == (("o/n", None), {"revision": "v1", "offline": False})


@pytest.mark.skipif(
    importlib.util.find_spec(HUB) is None, reason="there is no Hub module"
)
def test_what_the_hub_refuses_is_one_sentence(tmp_path, capsys):
    said = refusal(capsys, "push", tmp_path, "o/n")
    assert f"{tmp_path} has no hyperparams.yaml" in said
    said = refusal(capsys, "pull", "owner/no-such-model", "--offline")
    assert "owner/no-such-model" in said
