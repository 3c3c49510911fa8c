"""Broken and hostile shards: a sentence that names the file, or the sounds."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from test_hostile_audio import no_hang, one_sentence, unix_socket

from speechbrain_ext.dataio.audio import AudioError, read_audio
from speechbrain_ext.dataio.shards import write_shards


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A manifest of six files, and the folder of its two shards."""
    root = tmp_path_factory.mktemp("hostile")
    rows = []
    for number in range(6):
        path = root / f"{number}.{('wav', 'flac')[number % 2]}"
        noise = np.random.default_rng(number).normal(0, 0.1, 4000)
        soundfile.write(path, noise, 16000)
        rows.append((f"a/b/{number}", 0.25, str(path), 0, 4000, "a"))
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    manifest = pd.DataFrame(rows, columns=columns)
    write_shards(manifest, root / "shards", utterances=3)
    # of another manifest, whose names are others
    others = manifest.assign(spk_id="b")
    write_shards(others, root / "others", utterances=3)
    return manifest, root


def index_of(folder):
    (path,) = folder.glob("*.json")
    return path


def tars_of(folder):
    return sorted(folder.glob("*.tar"))


def rewritten(change):
    """What changes the JSON of an index."""

    def act(folder, root):
        path = index_of(folder)
        held = json.loads(path.read_text())
        path.write_text(json.dumps(change(held)))

    return act


def with_place(value, row=0):
    """What puts a value in the place of an utterance."""

    def change(held):
        held["places"][row] = value
        return held

    return rewritten(change)


def swap_places(held):
    places = held["places"]
    places[0], places[1] = places[1], places[0]
    return held


def index_bytes(content):
    def act(folder, root):
        path = index_of(folder)
        whole = path.read_bytes()
        path.write_bytes(content(whole) if callable(content) else content)

    return act


def tar_bytes(content, which=0):
    def act(folder, root):
        path = tars_of(folder)[which]
        path.write_bytes(content(path.read_bytes()))

    return act


def flipped(place):
    """What changes one byte of a file."""

    def change(whole):
        place_ = int(place * (len(whole) - 1))
        return whole[:place_] + bytes([whole[place_] ^ 1]) + whole[place_ + 1 :]

    return change


def instead(of, make):
    """What puts something else where a file was."""

    def act(folder, root):
        path = of(folder)
        path.rename(folder.parent / "away")
        make(path, folder.parent / "away")

    return act


def both(*acts):
    def act(folder, root):
        for one in acts:
            one(folder, root)

    return act


def no_index(folder, root):
    index_of(folder).unlink()


def no_journal(folder, root):
    for path in folder.glob(".*.jsonl"):
        path.unlink()


def swap_tars(folder, root):
    one, other = tars_of(folder)
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


def others_index(folder, root):
    shutil.copy(index_of(root / "others"), index_of(folder))


def others_tar(folder, root):
    shutil.copy(tars_of(root / "others")[0], tars_of(folder)[0])


def touched(folder, root):
    for path in folder.iterdir():
        os.utime(path, ns=(1, 1))


def first(folder):
    return tars_of(folder)[0]


THINGS = {
    "a named pipe": lambda path, away: os.mkfifo(path),
    "a folder": lambda path, away: path.mkdir(),
    "a socket": lambda path, away: unix_socket(str(path)),
    "a link to nowhere": lambda path, away: path.symlink_to("/no/such"),
    "a link to a device": lambda path, away: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path, away: path.symlink_to(path),
    "nothing": lambda path, away: None,
}
CASES = {
    **{
        f"index cut at {share}": index_bytes(
            lambda whole, share=share: whole[: int(len(whole) * share)]
        )
        for share in (0, 0.01, 0.5, 0.99)
    },
    **{
        f"index of {content[:20]!r}": index_bytes(content)
        for content in (
            *(b"null", b"5", b"[]", b"{}", b"no index", b"\xff\xfe\x00"),
            *(b"[" * 100000, b'{"a":' * 50000, b"\0" * 500, b"NaN"),
            *(b"[[0, 512, 1], [0, 1, 2]]", b'{"digest": 1}', b'""'),
        )
    },
    **{
        f"a place of {value!r}": with_place(value)
        for value in (
            *(None, 7, [], "0", [0, 512], [0, -512, 4], [-1, 512, 4]),
            *([0, 10**30, 4], [9, 512, 4], [0, 512, 10**9], [0.5, 512, 4]),
            *([True, 512, 4], ["0", "512", "4"], [0, 512, float("nan")]),
            *([0, 512, 10**5000 % 10**40], {"a": 1}),
        )
    },
    "two places swapped": rewritten(swap_places),
    "no places": rewritten(lambda held: {"shards": held["shards"]}),
    "no shards": rewritten(lambda held: {**held, "shards": []}),
    "shards that are a number": rewritten(lambda h: {**h, "shards": 7}),
    "one place too few": rewritten(
        lambda held: {**held, "places": held["places"][:-1]}
    ),
    "the index of another manifest": others_index,
    **{
        f"a shard cut at {share}": tar_bytes(
            lambda whole, share=share: whole[: int(len(whole) * share)]
        )
        for share in (0, 0.01, 0.5, 0.99)
    },
    "a shard of text of its length": tar_bytes(
        lambda whole: (b"text" * len(whole))[: len(whole)]
    ),
    "a longer shard": tar_bytes(lambda whole: whole + bytes(512)),
    **{
        f"a shard with a byte changed at {place}": tar_bytes(flipped(place))
        for place in (0, 0.5, 1)
    },
    "swapped shards": swap_tars,
    "the shard of another manifest": others_tar,
    **{
        f"{name} as index": instead(index_of, do) for name, do in THINGS.items()
    },
    **{f"{name} as shard": instead(first, do) for name, do in THINGS.items()},
    "no index and a shard of text": both(
        no_index, tar_bytes(lambda whole: b"text" * 999)
    ),
    "no index and half a shard": both(
        no_index, tar_bytes(lambda whole: whole[: len(whole) // 2])
    ),
    "no index and the shard of another manifest": both(no_index, others_tar),
    "no index and no journal": both(no_index, no_journal),
}
GOOD = {
    "nothing changed": lambda folder, root: None,
    "other times": touched,
    "no index": no_index,
    "no journal": no_journal,
    "a broken journal": lambda folder, root: [
        path.write_text("no journal") for path in folder.glob(".*.jsonl")
    ],
    "the index is a link": instead(
        index_of, lambda path, away: path.symlink_to(away)
    ),
    "a shard is a link": instead(
        first, lambda path, away: path.symlink_to(away)
    ),
    "others beside them": lambda folder, root: shutil.copytree(
        root / "others", folder, dirs_exist_ok=True
    ),
}
MENDED = {"nothing as index"}  # the index is written again


def stated(folder):
    """What lies in a folder, but for what this project keeps for itself."""
    found = {}
    for path in folder.iterdir():
        if not path.name.startswith("."):
            regular = path.is_file() and not path.is_symlink()
            found[path.name] = (
                path.lstat().st_mode,
                path.lstat().st_mtime_ns,
                path.read_bytes() if regular else b"",
            )
    return found


def sounds(manifest):
    return [read_audio(wav, 0, 4000) for wav in manifest.wav]


@pytest.mark.parametrize("case", CASES)
def test_broken_shards_are_a_sentence(case, made, tmp_path):
    manifest, root = made
    folder = tmp_path / "shards"
    shutil.copytree(root / "shards", folder)
    CASES[case](folder, root)
    files, before = stated(root), stated(folder)
    with no_hang():
        if case in MENDED:
            sharded = write_shards(manifest, folder, utterances=3)
            for one, two in zip(sounds(manifest), sounds(sharded), strict=True):
                assert torch.equal(one, two)
        else:
            with pytest.raises((ValueError, OSError)) as caught:
                write_shards(manifest, folder, utterances=3)
            one_sentence(caught.value, folder)
            assert stated(folder) == before
    assert stated(root) == files


@pytest.mark.parametrize("case", GOOD)
def test_whole_shards_are_read(case, made, tmp_path):
    manifest, root = made
    folder = tmp_path / "shards"
    shutil.copytree(root / "shards", folder)
    GOOD[case](folder, root)
    with no_hang():
        sharded = write_shards(manifest, folder, utterances=3)
        for one, two in zip(sounds(manifest), sounds(sharded), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize(
    "act",
    [
        *(instead(first, do) for do in THINGS.values()),
        tar_bytes(lambda whole: whole[:700]),
        tar_bytes(lambda whole: b""),
        tar_bytes(lambda whole: b"text" * 9999),
    ],
    ids=[*THINGS, "cut", "empty", "text"],
)
def test_shard_that_breaks_while_training_is_a_sentence(act, made, tmp_path):
    manifest, root = made
    folder = tmp_path / "shards"
    shutil.copytree(root / "shards", folder)
    sharded = write_shards(manifest, folder, utterances=3)
    act(folder, root)
    for wav, shard in zip(sharded.wav, sharded["shard"], strict=True):
        if shard == 0:
            with no_hang(), pytest.raises(AudioError) as caught:
                read_audio(wav, 0, 4000)
            one_sentence(caught.value, wav)


@pytest.mark.parametrize(
    "numbers",
    ["#0+99999999", "#99999999+4", "#0+0", "#7+100", "#", "#+", "#0+", "#a+b"]
    + ["#-1+4", "#1+-4", "#9999999999999999999+1", "#0+1e3", "#\u0661+4"],
)
def test_odd_places_are_a_sentence(numbers, made):
    path = tars_of(made[1] / "shards")[0]
    with no_hang(), pytest.raises(AudioError) as caught:
        read_audio(f"{path}{numbers}")
    one_sentence(caught.value, path)


def test_there_are_fifty_cases():
    assert len(CASES) >= 50
