"""Loading without trust: what loads, and hostile folders that do not."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from hostile_folders import HOSTILE
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.speaker import SpeakerRecognition
from verification_runs import export_encoder

from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.inference.safe_loading import load_folder

# Run in a process of their own, whose memory is measured
DANGEROUS = [
    *("anchor bomb", "reference bomb", "deep nesting", "large YAML"),
    *("huge shape", "many blocks", "huge filterbank", "huge extra module"),
    *("many modules", "huge weights", "huge folder", "huge card"),
    *("huge calibration", "huge label map", "zip bomb", "bytearray bomb"),
    *("values that are not there", "header of safetensors"),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder of a tiny encoder of two speakers."""
    folder = tmp_path_factory.mktemp("good") / "pretrained"
    export_encoder(folder, ["a", "b"])
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy to change."""
    return shutil.copytree(good, tmp_path / "work" / "pretrained")


@pytest.fixture
def outside(tmp_path, good):
    """A folder in which nothing may change, with files to steal."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "canary").write_text("alive")
    shutil.copy(good / "embedding_model.ckpt", folder / "secret.ckpt")
    shutil.copy(good / "hyperparams.yaml", folder / "secret.yaml")
    return folder


def tree(folder):
    """Names, kinds, sizes and contents of everything below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        small = path.is_file() and status.st_size < 2**20
        found[str(path)] = (
            status.st_mode,
            status.st_size,
            status.st_mtime_ns,
            os.readlink(path) if path.is_symlink() else None,
            hashlib.sha256(path.read_bytes()).digest() if small else None,
        )
    return found


def test_a_folder_gives_what_speechbrain_gives(good):
    loaded = load_folder(good)
    wavs = torch.randn(2, 8000)
    for interface in (SpeakerRecognition, EncoderClassifier):
        own = interface(modules=loaded.modules, hparams=loaded.hparams)
        theirs = interface.from_hparams(source=str(good))
        expected = theirs.encode_batch(wavs)
        torch.testing.assert_close(own.encode_batch(wavs), expected)
    assert loaded.label_names == ["a", "b"]
    assert loaded.calibrations == {}
    assert loaded.fingerprint == model_fingerprint(good)
    assert not any(module.training for module in loaded.modules.values())
    assert loaded.hparams["sample_rate"] == 16000


def test_loading_leaves_the_random_generator_alone(good):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    load_folder(good)
    assert torch.equal(torch.rand(1), expected)


def test_links_within_the_cache_of_the_hub_are_followed(good, tmp_path):
    snapshot = tmp_path / "snapshots" / "1a2b"
    snapshot.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    for path in good.glob("[!.]*"):
        shutil.copy(path, tmp_path / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert load_folder(snapshot).label_names == ["a", "b"]


def test_there_are_fifty_hostile_folders():
    assert len(HOSTILE) >= 50
    assert set(DANGEROUS) <= set(HOSTILE)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folder_is_refused(
    name, folder, outside, tmp_path, monkeypatch
):
    change, match = HOSTILE[name]
    change(folder, outside)
    before, modules = tree(tmp_path), set(sys.modules)

    def refuse(*arguments, **options):
        raise AssertionError("the folder has reached something forbidden")

    for where, what in (
        (socket.socket, "connect"),
        (subprocess.Popen, "__init__"),
        (os, "system"),
    ):
        monkeypatch.setattr(where, what, refuse)
    monkeypatch.chdir(outside)
    with pytest.raises((ValueError, OSError), match=match) as error:
        load_folder(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    assert len(str(error.value)) < 1000
    assert tree(tmp_path) == before
    assert not {"custom"} & (set(sys.modules) - modules)


MEASURED = """
import pathlib, sys
from torch.utils._python_dispatch import TorchDispatchMode
from speechbrain_ext.inference.safe_loading import load_folder
before = set(sys.modules)
load_folder(sys.argv[1])
if hasattr(TorchDispatchMode, "_should_skip_dynamo"):  # newer than 2.7
    # the compiler takes 130 MB, and longer than all the rest
    assert not {"torch._dynamo", "sympy"} & (set(sys.modules) - before)
def peak_memory():  # ru_maxrss includes the process that started this one
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("\\nVmHWM:")[1].split()[0])  # KiB

before = peak_memory()
for path in sys.argv[2:]:
    try:
        load_folder(pathlib.Path(path))
    except (ValueError, OSError) as error:
        print("refused", file=sys.stderr)
    peak = peak_memory()
    assert peak < 2**20, (path, before, peak)  # KiB
    print(peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_dangerous_folders_stay_within_a_gigabyte(good, tmp_path, outside):
    folders = []
    for number, name in enumerate(DANGEROUS):
        folder = shutil.copytree(good, tmp_path / str(number) / "pretrained")
        HOSTILE[name][0](folder, outside)
        folders.append(str(folder))
    words = [sys.executable, "-c", MEASURED, str(good), *folders]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, cwd=outside
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("refused") == len(DANGEROUS), done.stderr
