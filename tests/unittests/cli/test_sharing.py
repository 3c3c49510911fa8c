"""push and pull, with the real client and a hub on this machine."""

import json
import shutil

import pytest
from command_runs import answer, refusal, run
from fake_hub import TOKEN

from speechbrain_ext.inference.model_card import front_matter

NAME = "owner/encoder"


@pytest.fixture
def licensed(exported, tmp_path, monkeypatch):
    """A folder whose card states a licence; the client has a token."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    folder = shutil.copytree(exported, tmp_path / "pretrained")
    (folder / "README.md").write_text(front_matter("cc-by-4.0"))
    return folder


def test_what_was_pushed_is_pulled(hub, licensed, tmp_path, capsys):
    words = ["--private", "--revision=v1", "--message=first"]
    code, values = answer(capsys, "push", licensed, NAME, *words)
    assert code == 0 and values["url"] == f"{hub.url}/{NAME}"
    assert hub.repos[NAME]["private"]
    assert hub.repos[NAME]["message"] == "first"
    assert set(hub.repos[NAME]["heads"]) == {"main", "v1"}
    _, text, _ = run(capsys, "push", licensed, "owner/other")
    assert text == f"{licensed} is at {hub.url}/owner/other\n"
    assert not hub.repos["owner/other"]["private"]
    here = tmp_path / "here"
    _, text, _ = run(capsys, "pull", NAME, here, "--revision=v1")
    assert text == f"{NAME} is in {here}\n"
    asked = len(hub.asked)
    there = tmp_path / "there"
    words = ["--revision=v1", "--offline"]
    code, values = answer(capsys, "pull", NAME, there, *words)
    assert code == 0 and values["folder"] == str(there)
    assert len(hub.asked) == asked
    wanted = (licensed / "embedding_model.ckpt").read_bytes()
    for folder in (here, there):
        if (folder / "embedding_model.ckpt").exists():  # else safetensors
            assert (folder / "embedding_model.ckpt").read_bytes() == wanted
    code, values = answer(capsys, "info", there)
    assert code == 0 and values["license"] == "cc-by-4.0"


def test_what_the_hub_refuses_is_one_sentence(hub, exported, tmp_path, capsys):
    said = refusal(capsys, "push", tmp_path, NAME)
    assert f"{tmp_path} has no hyperparams.yaml" in said
    said = refusal(capsys, "push", exported, NAME)
    assert "README.md" in said and hub.asked == []
    said = refusal(capsys, "pull", "owner/no-such-model", "--offline")
    assert "owner/no-such-model" in said
    code, values = answer(capsys, "pull", "owner/no-such-model")
    assert code == 2 and "it does not exist" in json.dumps(values)
