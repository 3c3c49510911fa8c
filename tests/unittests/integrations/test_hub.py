"""Pushing and pulling by the real client, against a hub on this machine."""

import json
import os
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from conftest import ROOT
from fake_hub import TOKEN
from speechbrain.dataio.encoder import CategoricalEncoder
from verification_runs import RECIPE

from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.inference.export import export_pretrained
from speechbrain_ext.inference.loading import (
    load_encoder,
    pretrained_folder,
    training_speakers,
)
from speechbrain_ext.inference.safe_loading import load_folder
from speechbrain_ext.inference.safe_weights import has_safetensors
from speechbrain_ext.inference.speaker import SpeakerVerifier
from speechbrain_ext.inference.verified import keep_cohort
from speechbrain_ext.integrations.hub import folder_names, pull, push
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.processing.back_end import BackEnd
from speechbrain_ext.utils.files import atomic_write

NAME = "owner/encoder"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An exported folder with a cohort, whose licence is stated."""
    labels = CategoricalEncoder()
    labels.update_from_iterable(["a", "b"])
    torch.manual_seed(0)
    modules = {
        "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 2),
        "loss": torch.nn.Linear(1, 1),
    }
    folder = export_pretrained(
        tmp_path_factory.mktemp("made") / "pretrained",
        RECIPE,
        modules,
        labels,
        8,
        weights_license="cc-by-4.0",
    )
    keep_cohort(folder, BackEnd(torch.randn(4, 8), list("cdef")), "speaker")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(made, tmp_path / "pretrained")


def files_of(hub, name=NAME, branch="main"):
    """The files of a branch."""
    repo = hub.repos[name]
    return repo["commits"][repo["heads"][branch]]


def contents(folder):
    """Bytes by name of the files that are not hidden."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


def test_a_folder_comes_back_as_it_was_and_is_loaded_without_trust(
    hub, folder, tmp_path, monkeypatch
):
    url = push(folder, NAME, token=TOKEN)
    assert url == f"{hub.url}/{NAME}"
    assert len(hub.repos[NAME]["commits"]) == 2  # the first, and one more
    pulled = pull(f"hf:{NAME}", tmp_path / "pulled")
    wanted = contents(folder)
    if has_safetensors():  # no pickles
        for name in ("embedding_model", "classifier", "loss"):
            del wanted[f"{name}.ckpt"]
        del wanted["mean_var_norm_emb.ckpt"]
    assert contents(pulled) == wanted
    assert not any(path.is_symlink() for path in pulled.iterdir())
    mine = SpeakerVerifier.from_folder(folder)
    theirs = SpeakerVerifier.from_folder(pulled)
    wav = torch.randn(1, 16000)
    assert torch.equal(mine.encode_batch(wav), theirs.encode_batch(wav))
    # so enrolments and the cohort of one are valid for the other
    assert mine.fingerprint == theirs.fingerprint
    assert theirs.decisions.back_end is not None
    cached = pull(NAME)
    assert cached.is_relative_to(hub.cache)
    assert load_folder(cached).fingerprint == mine.fingerprint
    assert pretrained_folder(f"hf:{NAME}") == cached
    assert training_speakers(load_encoder(f"hf:{NAME}")) == {"a", "b"}
    # once downloaded, no network is needed
    asked = len(hub.asked)
    assert pull(NAME, offline=True) == cached
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert pull(NAME, tmp_path / "again") == tmp_path / "again"
    assert contents(tmp_path / "again") == wanted
    assert len(hub.asked) == asked


def test_only_the_files_of_a_pretrained_folder_are_pushed(
    hub, folder, tmp_path
):
    for name in ("thesis.ckpt", "run.py", "notes.txt", ".netrc", "a.wav"):
        (folder / name).write_text("mine")
    (folder / "mine").mkdir()
    (folder / "link.ckpt").symlink_to(folder / "loss.ckpt")
    (folder / "secrets.safetensors").write_text("mine")
    push(folder, NAME, token=TOKEN, message="The first")
    assert hub.repos[NAME]["message"] == "The first"
    wanted = {"README.md", "hyperparams.yaml", "recipe.yaml", "sums.json"}
    wanted |= {"label_encoder.ckpt", "normalization.npz"}
    for name in ("embedding_model", "classifier", "loss", "mean_var_norm_emb"):
        wanted |= {f"{name}.ckpt"}
        if has_safetensors():
            wanted |= {f"{name}.safetensors"}
    assert set(files_of(hub)) == wanted | {".gitattributes"}


def test_a_cohort_of_old_weights_does_not_stay_on_the_hub(hub, folder):
    push(folder, NAME, token=TOKEN)
    hub.add(NAME, files_of(hub) | {"paper.pdf": b"%PDF"})
    (folder / "normalization.npz").unlink()
    push(folder, NAME, token=TOKEN)
    assert "normalization.npz" not in files_of(hub)
    assert "paper.pdf" in files_of(hub)


@pytest.mark.parametrize("sums", [None, b"[1"])
def test_old_weights_do_not_stay_on_the_hub(hub, folder, tmp_path, sums):
    files = contents(folder)
    paper = {"paper.pdf": b"%PDF", "thesis.ckpt": b"mine"}
    listed = {**json.loads(files["sums.json"]), "old.ckpt": [1, 2]}
    listed["paper.pdf"] = [1, 2]
    twins = {"embedding_model.safetensors": b"old", "old.ckpt": b"old"}
    twins["sums.json"] = sums or json.dumps(listed).encode()
    hub.add(NAME, files | paper | twins)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "recipe.yaml").unlink()
    (folder / "sums.json").unlink()
    push(folder, NAME, token=TOKEN)
    unknown = {"old.ckpt", *(n for n in files if n.startswith("loss."))}
    unknown = unknown if sums else set()  # whose are they?
    assert set(files_of(hub)) == {*folder_names(folder), *paper, *unknown}
    assert load_folder(pull(NAME, tmp_path / "pulled"))


def test_a_users_files_do_not_part_cohort_and_encoder(hub, folder, tmp_path):
    for name in ("thesis.ckpt", "run.py", "notes.yaml"):
        (folder / name).write_text("mine")
    keep_cohort(folder, BackEnd(torch.randn(4, 8), list("cdef")), "speaker")
    push(folder, NAME, token=TOKEN)
    pulled = SpeakerVerifier.from_folder(pull(NAME, tmp_path / "pulled"))
    assert pulled.decisions.back_end.cohort is not None
    mine = SpeakerVerifier.from_folder(folder)
    assert mine.fingerprint == pulled.fingerprint


def test_a_calibration_is_not_put_beside_another_cohort(hub, folder, tmp_path):
    target = tmp_path / "target"
    push(folder, NAME, token=TOKEN)
    pull(NAME, target)
    with atomic_write(target / "calibration.json") as stream:
        json.dump({}, stream)
    pull(NAME, target)  # the Hub has a cohort, without a calibration
    assert not (target / "calibration.json").exists()
    assert (target / "normalization.npz").exists()
    (folder / "normalization.npz").unlink()
    push(folder, NAME, token=TOKEN)
    with atomic_write(target / "calibration.json") as stream:
        json.dump({}, stream)
    pull(NAME, target)  # now it has neither
    assert (target / "calibration.json").exists()
    assert (target / "normalization.npz").exists()


def test_a_branch_is_created_and_pulled(hub, folder, tmp_path):
    push(folder, NAME, token=TOKEN, revision="small")
    assert set(files_of(hub)) == {".gitattributes"}
    assert "hyperparams.yaml" in files_of(hub, branch="small")
    assert load_folder(pull(NAME, tmp_path / "small", revision="small"))
    with pytest.raises(OSError, match="it has no such revision"):
        pull(NAME, revision="large")
    with pytest.raises(OSError, match="it has no hyperparams.yaml"):
        pull(NAME)


def test_private_is_not_ignored(hub, folder):
    push(folder, NAME, token=TOKEN, private=True)
    assert hub.repos[NAME]["private"]
    with pytest.raises(OSError, match="the token may not read it"):
        pull(NAME)
    assert load_folder(pull(NAME, token=TOKEN))
    push(folder, "owner/open", token=TOKEN)
    before = files_of(hub, "owner/open")
    with pytest.raises(ValueError, match="it is public, but `private` is"):
        push(folder, "owner/open", token=TOKEN, private=True)
    assert files_of(hub, "owner/open") is before


def test_a_push_without_a_token_is_one_sentence(hub, folder):
    with pytest.raises(OSError, match="without an access token; log in with"):
        push(folder, NAME)
    with pytest.raises(OSError, match="the Hub refuses the token") as raised:
        push(folder, NAME, token="hf_wrong")
    assert "\n" not in str(raised.value)
    assert "hf_wrong" not in str(raised.value)
    assert hub.repos == {}


@pytest.mark.parametrize("license", ["unknown", "", "null"])
def test_weights_without_a_licence_are_not_pushed(hub, folder, license):
    card = folder / "README.md"
    text = card.read_text()
    card.write_text(text.replace("license: cc-by-4.0", f"license: {license}"))
    with pytest.raises(ValueError, match="does not state the licence of the"):
        push(folder, NAME, token=TOKEN)
    card.write_text("Hello")
    with pytest.raises(ValueError, match="does not state the licence of the"):
        push(folder, NAME, token=TOKEN)
    card.write_text("---\na: [\n---\nHello")
    with pytest.raises(ValueError, match="must begin with YAML between two"):
        push(folder, NAME, token=TOKEN)
    card.unlink()
    with pytest.raises(FileNotFoundError, match="README.md does not exist"):
        push(folder, NAME, token=TOKEN)
    assert hub.asked == []


def damage(folder):
    """Changes a byte of a file that only fine-tuning reads."""
    path = folder / "loss.ckpt"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def run_code(folder):
    """Lets the YAML call a function."""
    with open(folder / "hyperparams.yaml", "a") as stream:
        stream.write("bad: !apply:os.getcwd []\n")


def link(folder):
    """Replaces a file by a link within the folder."""
    (folder / "loss.ckpt").rename(folder / "old.bin")
    (folder / "loss.ckpt").symlink_to("old.bin")


@pytest.mark.parametrize(
    "change, match",
    [
        (damage, "loss.ckpt has another checksum; export it again"),
        (run_code, "the tag !apply:os.getcwd is refused"),
        (link, "loss.ckpt is a link; replace it by the file"),
    ],
)
def test_a_broken_folder_is_not_pushed(hub, folder, change, match):
    change(folder)
    with pytest.raises(ValueError, match=match):
        push(folder, NAME, token=TOKEN)
    with pytest.raises(ValueError, match=match):
        folder_names(folder)
    assert hub.asked == []


def test_scripts_and_subfolders_are_not_pulled(hub, folder, tmp_path):
    files = contents(folder)
    evil = {
        "run.py": b"import os",
        "../outside.ckpt": b"x",
        "/etc/outside.ckpt": b"x",
        "sub/embedding_model.ckpt": b"x",
        ".hidden.ckpt": b"x",
        "optimizer.pt": b"x",
    }
    hub.add(NAME, files | evil)
    before = sorted(tmp_path.iterdir())
    pulled = pull(NAME, tmp_path / "pulled")
    assert set(contents(pulled)) <= set(files)
    assert load_folder(pulled)
    got = [path for _, path in hub.asked if "/resolve/" in path]
    assert {path.count("/") for path in got} == {5}  # no subfolder
    assert {path.rpartition("/")[2] for path in got} <= set(files)
    made = {tmp_path / "pulled", hub.cache}
    assert set(tmp_path.iterdir()) - set(before) == made


@pytest.mark.parametrize(
    "name, size, match",
    [
        ("loss.ckpt", 2**33, r"its files have 859\d+ bytes, more than"),
        ("hyperparams.yaml", 2**30, "its hyperparams.yaml has 1073741824"),
    ],
)
def test_too_large_files_are_refused_before_the_download(
    hub, folder, name, size, match
):
    files = contents(folder)
    hub.add(NAME, {n: c for n, c in files.items() if "safetensors" not in n})
    hub.declared[name] = size
    with pytest.raises(OSError, match=match):
        pull(NAME)
    assert not any("/resolve/" in path for _, path in hub.asked)


def test_what_a_hostile_repository_has_is_refused(hub, folder, tmp_path):
    files = contents(folder)
    changed = dict(files)
    for name in ("embedding_model.ckpt", "embedding_model.safetensors"):
        if name in changed:
            changed[name] = changed[name][:-1]
    hub.add(NAME, changed)
    with pytest.raises(ValueError, match="ask its author to push it again"):
        pull(NAME, tmp_path / "pulled")
    card = b"---\nlicense: mit\n---\n<script>alert()</script>"
    hub.add(NAME, files | {"README.md": card})
    with pytest.raises(ValueError, match="README.md has a script"):
        pull(NAME, tmp_path / "pulled")
    hub.add(NAME, files | {"sums.json": b"[1"})
    with pytest.raises(ValueError, match="sums.json is damaged"):
        pull(NAME, tmp_path / "pulled")
    # Git's links reach the client as files with the target's path
    del files["sums.json"]
    hub.add(NAME, files | {"hyperparams.yaml": b"../../secret.yaml"})
    with pytest.raises(ValueError, match="hyperparams.yaml"):
        load_folder(pull(NAME, tmp_path / "pulled"))


def test_the_users_files_are_kept(hub, folder, tmp_path):
    push(folder, NAME, token=TOKEN)
    target = tmp_path / "target"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    pull(NAME, target)
    assert (target / "notes.txt").read_text() == "mine"
    before = model_fingerprint(target)
    pull(NAME, target)
    assert model_fingerprint(target) == before
    (target / "hyperparams.yaml").write_text("mine")
    asked = len(hub.asked)
    with pytest.raises(FileExistsError, match="was not written by this prog"):
        pull(NAME, target)
    assert len(hub.asked) == asked
    assert (target / "hyperparams.yaml").read_text() == "mine"


def test_without_a_hub_the_cache_is_used(hub, folder, monkeypatch, caplog):
    push(folder, NAME, token=TOKEN)
    cached = pull(NAME)
    # nobody listens on this port
    monkeypatch.setattr(
        huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9"
    )
    assert pull(NAME) == cached
    assert "the copy of owner/encoder in the cache is used" in caplog.text
    with pytest.raises(OSError, match="and the Hub cannot be reached") as one:
        pull("owner/other")
    with pytest.raises(OSError, match="cannot be pushed to") as two:
        push(folder, NAME, token=TOKEN)
    assert "\n" not in f"{one.value}{two.value}"


def test_names_that_do_not_exist(hub, monkeypatch):
    with pytest.raises(
        OSError, match="hf:owner/none cannot be downloaded"
    ) as e:
        load_encoder("hf:owner/none")
    assert "it does not exist, or the token may not read it" in str(e.value)
    with pytest.raises(OSError, match="cannot be downloaded") as e:
        pull("a/b/c")
    assert "\n" not in str(e.value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="and the Hub must not be asked"):
        pull("owner/none")


def test_a_cache_of_another_program_is_used_offline(made, tmp_path):
    """A hand-made cache, and the environment variables of a user."""
    place = tmp_path / "hub" / "models--owner--encoder"
    sha = "0123456789abcdef0123456789abcdef01234567"
    snapshot = place / "snapshots" / sha
    for part in (place / "refs", place / "blobs", snapshot):
        part.mkdir(parents=True)
    (place / "refs" / "main").write_text(sha)
    for number, (name, content) in enumerate(contents(made).items()):
        (place / "blobs" / str(number)).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    code = (
        "from speechbrain_ext.inference.speaker import SpeakerVerifier\n"
        "from speechbrain_ext.integrations.hub import pull\n"
        "print(pull('owner/encoder'))\n"
        "print(SpeakerVerifier.from_folder('hf:owner/encoder').fingerprint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": "1",
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(snapshot), model_fingerprint(made)]
