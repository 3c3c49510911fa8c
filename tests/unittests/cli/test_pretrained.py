"""convert, export and info."""

import json
import shutil

import pytest
import torch
from command_runs import add_calibrations, answer, refusal, run

from speechbrain_ext.cli import pretrained
from speechbrain_ext.cli.encoders import open_verifier
from speechbrain_ext.lobes.models.DFResNet import DFResNet


@pytest.fixture
def needs_onnx():
    """Skips where a package of the extra is not installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


def test_info_tells_what_a_folder_has(exported, tmp_path, capsys):
    folder = shutil.copytree(exported, tmp_path / "pretrained")
    code, values = answer(capsys, "info", folder)
    assert code == 0
    verifier = open_verifier(folder)
    network = verifier.mods.embedding_model
    assert values["architecture"] == "ResNet"
    assert values["parameters"] == sum(p.numel() for p in network.parameters())
    assert (values["embedding_size"], values["sample_rate"]) == (8, 16000)
    assert values["front_end"] == "KaldiFbank"
    assert values["training_speakers"] == 6
    assert values["fingerprint"] == verifier.fingerprint
    assert values["checksums"] == "ok" and values["license"] == "unknown"
    assert values["thresholds"] == {} and values["cohort"] is None
    add_calibrations(folder)
    card = (folder / "README.md").read_text()
    card = card.replace("license: unknown", "license: cc-by-4.0")
    (folder / "README.md").write_text(card)
    _, values = answer(capsys, "info", folder)
    assert values["thresholds"]["cosine"]["0.5"] == 0.5
    assert values["thresholds"]["asnorm"]["0.01"] > 2
    assert values["cohort"] == {"speakers": 20, "top_n": 10}
    assert values["license"] == "cc-by-4.0"
    _, text, _ = run(capsys, "info", folder)
    assert "thresholds          cosine: 0.5000 at 0.5" in text
    assert "cc-by-4.0" in text and "22,068" in text
    sums = json.loads((folder / "sums.json").read_text())
    sums["classifier.safetensors"] = sums["loss.ckpt"] = (1, 2)
    (folder / "sums.json").write_text(json.dumps(sums))
    said = answer(capsys, "info", folder)[1]["checksums"]
    assert said == "loss.ckpt is missing"  # but one form is enough
    (folder / "sums.json").unlink()
    assert answer(capsys, "info", folder)[1]["checksums"] == "none"


def test_info_refuses_a_damaged_folder(exported, tmp_path, capsys):
    folder = shutil.copytree(exported, tmp_path / "pretrained")
    state = torch.load(folder / "embedding_model.ckpt")
    state["embedding.bias"] += 1
    torch.save(state, folder / "embedding_model.ckpt")
    said = refusal(capsys, "info", folder)
    assert "is not as it was exported: embedding_model.ckpt" in said
    _, values = answer(capsys, "info", folder, "--trust")
    assert values["checksums"].startswith("embedding_model.ckpt")


def test_a_checkpoint_is_converted(tmp_path, capsys):
    path, folder = tmp_path / "avg_model.pt", tmp_path / "pretrained"
    model = DFResNet(80, (3, 3, 9, 3), (4, 4, 4, 4, 4), 6)
    torch.save(
        {
            key.replace("downsampling", "downsample_layers"): value
            for key, value in model.state_dict().items()
        },
        path,
    )
    words = ["convert", path, folder, "--family=golden_gemini"]
    code, values = answer(capsys, *words, "--architecture=Gemini_df_resnet60")
    assert code == 0 and values["folder"] == str(folder)
    _, values = answer(capsys, "info", folder)
    assert (values["architecture"], values["embedding_size"]) == ("DFResNet", 6)
    said = refusal(capsys, *words, "--architecture=ResNet9")
    assert "ResNet9" in said
    config = tmp_path / "config.yaml"
    config.write_text("model: [a]\n")
    said = refusal(capsys, *words, "--config", config)
    assert "`model` of" in said and "must be a name" in said
    said = refusal(
        capsys,
        *("convert", tmp_path / "no.pt", *words[2:]),
        "--architecture=Gemini_df_resnet60",
    )
    assert "no.pt" in said


def test_a_program_of_torch_export_is_written(
    exported, tmp_path, capsys, monkeypatch
):
    # the integration's own tests run the file
    calls = []
    monkeypatch.setattr(
        pretrained, "export_program", lambda *a: calls.append(a) or 0.5
    )
    out = str(tmp_path / "encoder.pt2")
    words = ["export", exported, "--torch", out]
    _, values = answer(capsys, *words, "--features")
    assert values["lowest_cosine"] == {out: 0.5}
    ((modules, *rest),) = calls
    assert rest == [out, "features", 16000]
    assert type(modules["embedding_model"]).__name__ == "ResNet"


@pytest.mark.usefixtures("needs_onnx")
def test_both_forms_of_onnx_are_written(exported, tmp_path, capsys):
    from speechbrain_ext.integrations.onnx import onnx_session

    verifier = open_verifier(exported)
    wavs = 0.1 * torch.randn(2, 20000)
    given = {"wavs": wavs, "feats": verifier.mods.compute_features(wavs)}
    expected = verifier.encode_batch(wavs).squeeze(1)
    for name, option in (("wavs", []), ("feats", ["--features"])):
        out = tmp_path / f"{name}.onnx"
        code, text, err = run(
            capsys, "export", exported, "--onnx", out, *option
        )
        assert code == 0 and err == "" and "cosine to torch's" in text
        inputs = {name: given[name].detach().numpy()}
        (found,) = onnx_session(out).run(["embs"], inputs)
        torch.testing.assert_close(
            torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4
        )


@pytest.mark.usefixtures("needs_onnx")
def test_an_opset_that_onnx_lacks_is_named(exported, tmp_path, capsys):
    out = tmp_path / "encoder.onnx"
    words = ["export", exported, "--onnx", out, "--opset=999"]
    said = refusal(capsys, *words)
    assert f"`opset` of {out} must be from 18 to" in said
    assert not out.exists()


def test_an_export_that_is_not_possible_is_said(exported, tmp_path, capsys):
    words = ["export", exported]
    assert "Name the file to write" in refusal(capsys, *words)
    assert "--int8 is only for ONNX" in refusal(
        capsys, *words, "--int8", "--torch", tmp_path / "a.pt2"
    )
    assert "must end in .onnx, got" in refusal(
        capsys, *words, "--onnx", tmp_path / "a.pt2"
    )
    mine = tmp_path / "mine.pt2"
    mine.write_text("a thesis")
    said = refusal(capsys, *words, "--torch", mine)
    assert "mine.pt2 was not written by" in said
    assert mine.read_text() == "a thesis"
