"""A corpus of real files in VoxCeleb's shape, and the preparation of it."""

import re

import numpy as np
import pytest
import soundfile

TRIALS = (
    "1 id5/s0/0.wav id5/s1/0.wav\n0 id5/s0/0.wav id6/s0/0.wav\n"
    "0 id5/s1/1.wav id6/s1/1.wav\n"
)


@pytest.fixture
def prepare(recipe_folder):
    """The recipe's function, imported as the recipe's scripts import it."""
    from voxceleb_prepare import prepare_voxceleb

    return prepare_voxceleb


@pytest.fixture
def tree(tmp_path):
    """Seven speakers with two sessions of two; id5 and id6 are for tests.

    The path has the words that may not count: only what is below it may.
    """
    root = tmp_path / "wav" / "test" / "corpus"
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
    """Half a second of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 0.1, (rate // 2, channels))
    soundfile.write(path, noise, rate)


def contents(folder):
    """Name and bytes of every plain name, each a link to a stamped file."""
    links = [path for path in folder.iterdir() if path.is_symlink()]
    for path in links:
        name = re.escape(path.stem) + r"-[0-9a-f]{12}" + re.escape(path.suffix)
        assert re.fullmatch(name, path.readlink().name)
    return {path.name: path.read_bytes() for path in links if path.is_file()}
