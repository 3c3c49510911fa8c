"""Shards: what webdataset reads, crops as from files, and going on."""

import io
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_ext.dataio.crops import CropDataset, Draw
from speechbrain_ext.dataio.samplers import CropSampler
from speechbrain_ext.dataio.shards import open_member, write_shards
from speechbrain_ext.utils.journal import JOURNAL
from speechbrain_ext.utils.temporaries import LOCK


@pytest.fixture
def manifest(tmp_path):
    """Eleven files of three formats; a dot in a name, a long one, no ASCII."""
    rows = []
    names = [*"012345678", "v1.2", "é" + "x" * 120]
    for number, name in enumerate(names):
        ending = ("wav", "flac", "ogg")[number % 3]
        path = tmp_path / "files" / f"s{number % 4}" / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 16000 + 100 * number
        noise = np.random.default_rng(number).normal(0, 0.1, samples)
        soundfile.write(path, noise, 16000)
        speaker = f"s{number % 4}"
        seconds = samples / 16000
        name = f"{speaker}/x.y/{name}"
        rows.append((name, seconds, str(path), 0, samples, speaker))
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    return pd.DataFrame(rows, columns=columns)


def contents(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name not in (JOURNAL, LOCK)
    }


def test_crops_from_shards_are_those_from_files(manifest, tmp_path):
    sharded = write_shards(manifest, tmp_path / "shards", utterances=4)
    assert sorted(sharded["shard"].value_counts()) == [3, 4, 4]
    plain = CropDataset(manifest, range(11), 0.4, seed=3)
    other = CropDataset(sharded, range(11), 0.4, seed=3)
    for row in range(11):
        one, two = plain[Draw(row, 1, 0)], other[Draw(row, 1, 0)]
        assert torch.equal(one["sig"], two["sig"])
        assert one["id"] == two["id"]


def test_odd_ids_keep_their_own_sound(manifest, tmp_path):
    few = manifest.iloc[:3].assign(ID=["a/b.c", "a/b%2Ec", "a/b%252Ec"])
    sharded = write_shards(few, tmp_path / "shards", workers=1)
    for wav, place in zip(few.wav, sharded.wav, strict=True):
        with open_member(place) as sound:
            with open(wav, "rb") as own:
                assert sound.read() == own.read()


def test_files_without_an_ending_are_read_too(manifest, tmp_path):
    plain = tmp_path / "plain"
    os.link(manifest.wav[1], plain)
    one = manifest.iloc[[1]].assign(wav=str(plain))
    for _ in range(2):
        sharded = write_shards(one, tmp_path / "shards", workers=1)
        with open_member(sharded.wav.iloc[0]) as sound:
            assert sound.read() == plain.read_bytes()
    wds = pytest.importorskip("webdataset")
    tar = sharded.wav.iloc[0].rpartition("#")[0]
    (sample,) = wds.WebDataset(tar, shardshuffle=False)
    assert sample["audio"] == plain.read_bytes()


def test_bytes_depend_on_nothing_but_the_manifest(manifest, tmp_path):
    one = write_shards(manifest, tmp_path / "a", 4, workers=1)
    shuffled = manifest.sample(frac=1, random_state=0)
    write_shards(manifest, tmp_path / "b", 4, workers=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    tars = {n: b for n, b in contents(tmp_path / "a").items() if ".tar" in n}
    write_shards(shuffled, tmp_path / "c", 4)
    held = contents(tmp_path / "c").values()
    assert set(tars.values()) <= set(held)  # the names know the rows' order
    again = write_shards(manifest, tmp_path / "a", 4)
    pd.testing.assert_frame_equal(one, again)
    # other shards beside them where the manifest is another
    write_shards(manifest.head(9), tmp_path / "a", 4)
    assert len(contents(tmp_path / "a")) == 4 + 4


def test_true_speakers_are_written(manifest, tmp_path):
    write_shards(manifest, tmp_path / "a")
    noisy = manifest.assign(spk_id_clean=manifest["spk_id"], spk_id="s0")
    write_shards(noisy, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_webdataset_reads_them(manifest, tmp_path):
    wds = pytest.importorskip("webdataset")
    write_shards(manifest, tmp_path / "shards", utterances=2)
    urls = sorted(map(str, (tmp_path / "shards").glob("*.tar")))
    dataset = wds.WebDataset(urls, shardshuffle=False)
    found = {}
    for sample in dataset:
        about = json.loads(sample["json"])
        (ending,) = set(sample) & {"wav", "flac", "ogg"}
        found[about["ID"]] = sample[ending], about["spk_id"]
    assert len(found) == 11
    for name, wav, speaker in manifest[["ID", "wav", "spk_id"]].to_numpy():
        with open(wav, "rb") as stream:
            assert found[name] == (stream.read(), speaker)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_and_processes_share_an_epoch_without_repeats(
    manifest, tmp_path, workers
):
    sharded = write_shards(manifest, tmp_path / "shards", utterances=3)

    def epoch(rank, size):
        sampler = CropSampler(
            sharded, 2, 5, shards_at_once=2, rank=rank, world_size=size
        )
        loader = torch.utils.data.DataLoader(
            CropDataset(sharded, range(11), 0.4, seed=5),
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=lambda items: [item["id"] for item in items],
        )
        return [name for batch in loader for name in batch]

    alone = epoch(0, 1)
    assert len(alone) == len(set(alone)) == 10
    assert sorted(epoch(0, 2) + epoch(1, 2)) == sorted(alone)


def test_few_shards_are_read_at_a_time(manifest, tmp_path):
    sharded = write_shards(manifest, tmp_path / "shards", utterances=2)
    sampler = CropSampler(sharded, 1, 5, shards_at_once=2, min_draws=2)
    orders = []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        rows = [draw.row for (draw,) in sampler]
        shards = sharded["shard"].to_numpy()[rows].tolist()
        assert len(shards) == 22
        for place in range(22):  # begun and not yet at their end
            current = set(shards[: place + 1]) & set(shards[place:])
            assert len(current) <= 2
        orders.append(rows)
    assert orders[0] != orders[1]
    with pytest.raises(ValueError, match="needs `shards`, got 2"):
        CropSampler(manifest, 1, 5, shards_at_once=2)


def test_what_is_missing_is_written_and_nothing_else(manifest, tmp_path):
    folder = tmp_path / "shards"
    write_shards(manifest, folder, 4)
    whole = contents(folder)
    first, second, _ = sorted(folder.glob("*.tar"))
    second.unlink()
    (folder / f".speechbrain_ext-99999999-{second.name}").write_text("half")
    with pytest.raises(FileNotFoundError, match="lacks 1 of 3 shards"):
        write_shards(manifest, folder, 4)
    next(folder.glob("*.json")).unlink()
    before = first.stat().st_mtime_ns
    write_shards(manifest, folder, 4)
    assert contents(folder) == whole
    assert first.stat().st_mtime_ns == before


def replace(path):
    """Other sound of the same length, size and time."""
    state = os.stat(path)
    noise = np.random.default_rng(99).normal(0, 0.1, 16000)
    soundfile.write(path, noise, 16000)
    assert os.stat(path).st_size == state.st_size
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_replaced_sound_gets_new_shards(manifest, tmp_path, caplog):
    before = write_shards(manifest, tmp_path / "shards", 4)
    replace(manifest.wav[0])
    after = write_shards(manifest, tmp_path / "shards", 4)
    assert "Files have changed since the shards of" in caplog.text
    assert not set(before.wav) & set(after.wav)
    plain = CropDataset(manifest, range(11), 0.4, seed=3)
    other = CropDataset(after, range(11), 0.4, seed=3)
    for row in range(11):
        one, two = plain[Draw(row, 1, 0)], other[Draw(row, 1, 0)]
        assert torch.equal(one["sig"], two["sig"])


def test_shards_outlive_the_files_that_they_were_made_of(
    manifest, tmp_path, caplog
):
    before = write_shards(manifest, tmp_path / "shards", 4)
    shutil.rmtree(tmp_path / "files")
    after = write_shards(manifest, tmp_path / "shards", 4)
    pd.testing.assert_frame_equal(before, after)
    assert "is gone; the shards of" in caplog.text


def test_a_file_that_is_gone_leaves_no_half_of_a_shard(manifest, tmp_path):
    table = manifest.assign(wav=[*manifest["wav"][:10], "/no/such.wav"])
    with pytest.raises(FileNotFoundError, match="/no/such.wav"):
        write_shards(table, tmp_path / "shards", 4)
    assert not list((tmp_path / "shards").glob("*.tmp"))
    assert not list((tmp_path / "shards").glob("*.json"))


def test_bad_arguments_are_rejected(manifest, tmp_path):
    with pytest.raises(ValueError, match="1 or more, got 0"):
        write_shards(manifest, tmp_path / "shards", 0)
    with pytest.raises(ValueError, match="whole files, but"):
        write_shards(manifest.assign(wav="/d/1.wav"), tmp_path / "shards")


def test_a_member_reads_and_seeks_as_its_bytes_do(tmp_path):
    held = bytes(range(250))
    (tmp_path / "a.tar").write_bytes(b"x" * 99 + held + b"y" * 99)
    alone = io.BytesIO(held)
    with open_member(f"{tmp_path}/a.tar#99+250") as member:
        for place, whence, wanted in [
            *((0, 0, 7), (-9, 2, 20), (5, 0, 3), (2, 1, 3), (300, 0, 5)),
            *((240, 0, -1), (0, 0, -1)),
        ]:
            assert member.seek(place, whence) == alone.seek(place, whence)
            assert member.read(wanted) == alone.read(wanted)
            assert member.tell() == alone.tell()


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_a_piece_of_a_sound_is_read_in_place(tmp_path, ending):
    noise = np.random.default_rng(0).normal(0, 0.1, 20000)
    soundfile.write(tmp_path / f"1.{ending}", noise, 16000)
    held = (tmp_path / f"1.{ending}").read_bytes()
    (tmp_path / "a.tar").write_bytes(b"x" * 512 + held + b"y" * 512)
    want, _ = soundfile.read(tmp_path / f"1.{ending}", 500, 7000)
    with open_member(f"{tmp_path}/a.tar#512+{len(held)}") as member:
        found, rate = soundfile.read(member, 500, 7000)
    assert rate == 16000
    assert np.array_equal(found, want)


@pytest.mark.parametrize("path", ["/d/a.wav", "/d/#1+2.wav", "/d/a.tar#1"])
def test_other_paths_stay_paths(path):
    with open_member(path) as found:
        assert found == path


def test_a_shard_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(OSError, match="gone.tar"):
        with open_member(f"{tmp_path}/gone.tar#0+1"):
            pass
