"""Runs killed at random moments end, when run again, as one left alone."""

import multiprocessing
import random
import shutil
import subprocess
import time

import numpy as np
import pytest
import soundfile

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.shards import write_shards
from speechbrain_ext.dataio.transcoding import convert_corpus
from speechbrain_ext.utils.journal import JOURNAL
from speechbrain_ext.utils.temporaries import LOCK, TEMPORARY

KILLS = 3


def contents(folder):
    """Name and bytes of every file below a folder, but for our own records."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (JOURNAL, LOCK)
    }


def is_final(name):
    """Whether a name is that of a finished file, which has to be whole."""
    last = name.rpartition("/")[2]
    return not TEMPORARY.match(last) and not name.startswith("headers-")


def killed_at_random(work, folder, seed):
    """Runs some work, killed again and again, and checks what it leaves.

    Arguments
    ---------
    work : callable
        Called with the folder that it is to fill.
    folder : pathlib.Path
        Where the two runs write.
    seed : int
        Draws the moments.
    """
    started = time.perf_counter()
    work(folder / "alone")
    taken = time.perf_counter() - started
    alone = contents(folder / "alone")
    moments = random.Random(seed)
    # forked, so that the moments fall into the work and not into imports
    context = multiprocessing.get_context("fork")
    killed = 0
    while killed < KILLS:
        process = context.Process(target=work, args=(folder / "killed",))
        process.start()
        process.join(moments.uniform(0, taken))
        process.kill()
        process.join()
        for name, held in contents(folder / "killed").items():
            assert not is_final(name) or alone[name] == held, name
        if process.exitcode:
            killed += 1
        else:  # it was done before: earlier, and from the start
            taken /= 2
            shutil.rmtree(folder / "killed")
    work(folder / "killed")
    assert contents(folder / "killed") == alone


def write_tree(root, speakers, utterances):
    """A corpus of very short files; a few are broken."""
    for number in range(speakers * utterances):
        folder = root / "wav" / f"id{number % speakers:03}" / "s"
        folder.mkdir(parents=True, exist_ok=True)
        samples = np.full(800 + number, 0.1)
        soundfile.write(folder / f"{number}.wav", samples, 16000)
        if number % 300 == 7:
            (folder / f"{number}.wav").write_text("garbage")


def test_preparation(recipe_folder, tmp_path, monkeypatch):
    from voxceleb_prepare import prepare_voxceleb

    # so that a thousand files are many, and read by two processes
    monkeypatch.setattr("speechbrain_ext.dataio.audio_headers.CHUNK", 16)
    monkeypatch.setattr("speechbrain_ext.dataio.audio_headers.FEW", 0)
    write_tree(tmp_path / "corpus", 20, 50)

    def work(folder):
        prepare_voxceleb(
            str(tmp_path / "corpus"),
            str(folder),
            dev_speakers=4,
            kaldi=True,
            workers=2,
        )

    killed_at_random(work, tmp_path, seed=1)


def test_shards(recipe_folder, tmp_path):
    from voxceleb_prepare import prepare_voxceleb

    write_tree(tmp_path / "corpus", 10, 60)
    prepare_voxceleb(str(tmp_path / "corpus"), str(tmp_path / "save"))
    manifest = read_manifest(tmp_path / "save" / "train.csv")

    def work(folder):
        write_shards(manifest, folder, utterances=10, workers=2)

    killed_at_random(work, tmp_path, seed=2)


@pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ffmpeg is not installed"
)
def test_conversion(tmp_path):
    write_tree(tmp_path, 1, 1)
    source = tmp_path / "corpus" / "dev" / "aac" / "id0" / "s"
    source.mkdir(parents=True)
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", tmp_path / "wav" / "id000/s/0.wav"]
        + [source / "0.m4a"],
        check=True,
    )
    for number in range(1, 12):
        shutil.copy(source / "0.m4a", source / f"{number}.m4a")

    def work(folder):
        convert_corpus(tmp_path / "corpus", folder, workers=2)

    killed_at_random(work, tmp_path, seed=3)
