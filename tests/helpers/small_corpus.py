"""A small corpus of audio files in VoxCeleb's layout, and its preparation."""

import re
import shutil

import numpy as np
import pytest
import soundfile

TRIALS = (
    "1 id5/s0/0.wav id5/s1/0.wav\n0 id5/s0/0.wav id6/s0/0.wav\n"
    "0 id5/s1/1.wav id6/s1/1.wav\n"
)


@pytest.fixture
def prepare(recipe_folder):
    """The recipe's preparation, imported as in the recipe's scripts."""
    from voxceleb_prepare import prepare_voxceleb

    return prepare_voxceleb


@pytest.fixture
def tree(written_tree, tmp_path):
    """Seven speakers, two sessions each, two files each; id5, id6 for tests.

    The path above the corpus has the words ``wav`` and ``test``, which must be
    ignored.
    """
    root = tmp_path / "wav" / "test" / "corpus"
    # not copy2: each file gets times of its own
    return shutil.copytree(written_tree, root, copy_function=shutil.copy)


@pytest.fixture(scope="session")
def written_tree(tmp_path_factory):
    """What each test gets a copy of."""
    root = tmp_path_factory.mktemp("tree") / "corpus"
    formats = ("wav", "flac", "ogg")
    for speaker in range(7):
        for session in range(2):
            folder = root / "wav" / f"id{speaker}" / f"s{session}"
            folder.mkdir(parents=True)
            for number in range(2):
                name = f"{number}.{formats[(speaker + number) % 3]}"
                write(folder / name, rate=8000 if speaker == 1 else 16000)
    write(root / "noise" / "free" / "sound" / "1.wav")
    (root / "meta").mkdir()
    (root / "meta" / "veri_O.txt").write_text(TRIALS)
    return root


def write(path, rate=16000, channels=1):
    """Writes half a second of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 0.1, (rate // 2, channels))
    soundfile.write(path, noise, rate)


def contents(folder):
    """Names and bytes of all links; each points to a fingerprinted file."""
    links = [path for path in folder.iterdir() if path.is_symlink()]
    for path in links:
        name = re.escape(path.stem) + r"-[0-9a-f]{12}" + re.escape(path.suffix)
        assert re.fullmatch(name, path.readlink().name)
    return {path.name: path.read_bytes() for path in links if path.is_file()}
