"""Embeddings on disk: nothing twice, nothing stale, nothing half."""

import contextlib
import errno
import io
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from test_embedding import Encoder

from speechbrain_ext.dataio.audio import AudioError
from speechbrain_ext.dataio.crops import Crops
from speechbrain_ext.inference.embedding import embed_utterances
from speechbrain_ext.inference.embedding_store import (
    EmbeddingStore,
    stored_embeddings,
    utterance_keys,
)
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.utils.files import locked_folder
from speechbrain_ext.utils.temporaries import LOCK


class Counting(Encoder):
    """An encoder that counts the utterances it embeds."""

    seen = 0

    def encode_batch(self, wavs, lengths):
        self.seen += len(wavs)
        return super().encode_batch(wavs, lengths)


@pytest.fixture
def manifest(tmp_path):
    """Six files of up to a second."""
    rng = np.random.default_rng(0)
    rows = []
    for row, samples in enumerate([16000, 9000, 12000, 7000, 8001, 16001]):
        path = tmp_path / f"{row}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(samples), 16000)
        rows.append((str(row), samples / 16000, str(path), 0, samples, "s"))
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Counting().eval()


def test_embeddings_are_computed_once(manifest, encoder, tmp_path):
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    first = stored_embeddings(encoder, manifest[:4], store, 2.0)
    assert encoder.seen == 4
    torch.testing.assert_close(first, embed_utterances(encoder, manifest[:4]))
    encoder.seen = 0
    again = stored_embeddings(encoder, manifest[::-1], store, 2.0)
    assert encoder.seen == 2  # those of the other list alone
    assert torch.equal(again.flip(0)[:4], first)
    other = EmbeddingStore(tmp_path / "embeddings", "b" * 64)
    stored_embeddings(encoder, manifest[:1], other)
    assert encoder.seen == 3  # of another model


def test_crops_are_stored_apart_by_number_and_length(
    manifest, encoder, tmp_path
):
    given = tmp_path / "embeddings", "a" * 64
    whole = stored_embeddings(encoder, manifest, EmbeddingStore(*given))
    encoder.seen, found = 0, {}
    for crops in (Crops(3, 0.5), Crops(3, 0.25), Crops(2, 0.5)):
        store = EmbeddingStore(*given, crops)
        stored_embeddings(encoder, manifest[:4], store, 2.0)
        found[crops] = stored_embeddings(encoder, manifest, store, 2.0)
        assert found[crops].shape == (6, crops.number, 8)
    assert encoder.seen == 6 * (3 + 3 + 2)  # nothing twice
    assert not torch.equal(found[3, 0.5], found[3, 0.25])
    torch.testing.assert_close(
        found[3, 0.5][:, [0, 2]], found[2, 0.5], rtol=1e-4, atol=1e-5
    )  # their first and last crops are the same
    again = EmbeddingStore(*given, Crops(3, 0.5))
    assert torch.equal(
        stored_embeddings(encoder, manifest, again), found[3, 0.5]
    )
    alone = stored_embeddings(encoder, manifest, EmbeddingStore(*given))
    assert torch.equal(alone, whole)
    assert encoder.seen == 6 * (3 + 3 + 2)
    name = "a" * 16
    assert sorted(path.name for path in given[0].iterdir()) == [
        name,
        f"{name}_2x0.5s",
        f"{name}_3x0.25s",
        f"{name}_3x0.5s",
    ]


@pytest.mark.parametrize("shape", [(6, 8), (6, 2, 8)])
def test_file_of_whole_utterances_among_crops_is_set_aside(
    shape, manifest, encoder, tmp_path
):
    store = EmbeddingStore(tmp_path, "a" * 64, Crops(3, 0.5))
    store.add(utterance_keys(manifest), list("012345"), torch.ones(shape))
    found = stored_embeddings(encoder, manifest, store)
    assert found.shape == (6, 3, 8)
    assert encoder.seen == 18
    assert len(list(store.folder.glob("*.broken"))) == 1


def test_crop_whose_embedding_is_zero_is_named(manifest, tmp_path):
    class Zero(Encoder):
        def encode_batch(self, wavs, lengths):
            found = torch.ones(len(wavs), 1, 4)
            found[4] = 0
            return found

    store = EmbeddingStore(tmp_path, "a" * 64, Crops(3, 0.5))
    with pytest.raises(ValueError, match="1 embeddings are zero .* 1; check"):
        stored_embeddings(Zero(), manifest[:3], store)
    assert len(store.read()) == 2


def test_file_that_changed_is_embedded_again(manifest, encoder, tmp_path):
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    before = stored_embeddings(encoder, manifest, store)
    rng = np.random.default_rng(7)
    soundfile.write(manifest.wav[2], 0.1 * rng.standard_normal(12000), 16000)
    os.utime(manifest.wav[2], ns=(1, 1))
    after = stored_embeddings(encoder, manifest, store)
    assert encoder.seen == 7
    same = (before == after).all(dim=1).tolist()
    assert same == [True, True, False, True, True, True]


def test_replaced_file_of_equal_length_and_time_is_embedded_again(
    manifest, encoder, tmp_path
):
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    stored_embeddings(encoder, manifest, store)
    state = os.stat(manifest.wav[2])
    rng = np.random.default_rng(7)
    soundfile.write(manifest.wav[2], 0.1 * rng.standard_normal(12000), 16000)
    os.utime(manifest.wav[2], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert os.stat(manifest.wav[2]).st_size == state.st_size
    after = stored_embeddings(encoder, manifest, store)
    assert encoder.seen == 7
    alone = embed_utterances(encoder, manifest[2:3])[0]
    torch.testing.assert_close(after[2], alone)


def test_same_name_in_another_folder_is_embedded_again(
    manifest, encoder, tmp_path
):
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    stored_embeddings(encoder, manifest, store)
    (tmp_path / "other").mkdir()
    rng = np.random.default_rng(7)
    other = manifest.copy()
    for row, (path, samples) in manifest[["wav", "stop"]].iterrows():
        other.loc[row, "wav"] = f"{tmp_path}/other/{row}.wav"
        noise = 0.1 * rng.standard_normal(samples)
        soundfile.write(other.wav[row], noise, 16000)
        time = os.stat(path).st_mtime_ns
        os.utime(other.wav[row], ns=(time, time))
    found = stored_embeddings(encoder, other, store)
    assert encoder.seen == 12
    torch.testing.assert_close(found, embed_utterances(encoder, other))


@pytest.mark.parametrize("gather", [None, lambda: None])
def test_silence_is_named_and_the_others_are_stored(
    manifest, encoder, tmp_path, gather
):
    soundfile.write(manifest.wav[1], np.zeros(9000), 16000)
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    for seen in (5, 5):  # the second time only the silent one is read
        with pytest.raises(NoSpeechError, match="^1 utterance .*: 1 .digital"):
            stored_embeddings(encoder, manifest, store, gather=gather)
        assert encoder.seen == seen
    assert len(store.read()) == 5


def test_verification_leaves_silence_out_of_the_cohort_alone(
    manifest, encoder, tmp_path, recipe_folder, monkeypatch, caplog
):
    import speaker_verification_cosine as script

    encoder.device, encoder.noprogressbar = "cpu", True
    monkeypatch.setattr(script, "pretrained_folder", lambda folder: folder)
    monkeypatch.setattr(script, "model_fingerprint", lambda _: "a" * 64)
    soundfile.write(manifest.wav[1], np.zeros(9000), 16000)
    hparams = {
        "pretrained_folder": tmp_path,
        "embeddings_folder": tmp_path / "embeddings",
        **{"batch_seconds": 2.0, "num_workers": 0, "precision": "fp32"},
    }
    manifests = {"trial lists": manifest[2:], "cohort": manifest}
    found = script.embed(hparams, encoder, manifests)
    assert manifests["cohort"].ID.tolist() == ["0", "2", "3", "4", "5"]
    assert list(found) == ["trial lists", "cohort"]
    assert [len(part) for part in found.values()] == [4, 5]
    assert torch.equal(found["trial lists"], found["cohort"][1:])
    assert "Left out of the cohort: 1 utterance has no speech" in caplog.text
    with pytest.raises(NoSpeechError, match="no speech: 1 .digital"):
        script.embed(hparams, encoder, {"trial lists": manifest})


def test_what_was_done_before_an_unreadable_file_is_stored(
    manifest, encoder, tmp_path
):
    with open(manifest.wav[3], "w") as stream:  # the shortest comes last
        stream.write("no audio")
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    with pytest.raises(AudioError, match="Cannot read .*3.wav"):
        stored_embeddings(encoder, manifest, store, 1.0)
    assert len(store.read()) == encoder.seen == 5


@pytest.mark.parametrize("what", ["nothing", "a named pipe"])
def test_file_that_is_gone_is_one_sentence(manifest, tmp_path, what):
    os.unlink(manifest.wav[4])
    if what != "nothing":
        os.mkfifo(manifest.wav[4])
    with pytest.raises(ValueError, match=manifest.wav[4]) as caught:
        utterance_keys(manifest)
    assert "Errno" not in str(caught.value)


def test_processes_share_the_batches(manifest, encoder, tmp_path):
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    keys = set(utterance_keys(manifest))
    with pytest.raises(KeyError):  # the other's part is missing
        stored_embeddings(encoder, manifest, store, 1.0, share=(0, 2))
    part = set(store.read())
    assert 0 < encoder.seen < 6
    assert part < keys
    encoder.seen = 0
    stored_embeddings(encoder, manifest, store, 1.0)
    assert encoder.seen == 6 - len(part)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_broken_file_is_left_out(manifest, encoder, tmp_path):
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    stored_embeddings(encoder, manifest, store)
    (path,) = store.folder.glob("*.npz")
    path.write_bytes(path.read_bytes()[:-100])
    stored_embeddings(encoder, manifest, store)
    assert encoder.seen == 12
    assert len(store.read()) == 6


def part_of(keys, embeddings):
    """The bytes of a file of the store."""
    stream = io.BytesIO()
    np.savez(stream, keys=keys, ids=keys, embeddings=embeddings)
    return stream.getvalue()


WHOLE = part_of(np.array(["a" * 32]), np.ones((1, 4), np.float32))
BROKEN = {
    "empty": b"",
    "one byte": b"P",
    "text": b"keys",
    "half": WHOLE[: len(WHOLE) // 2],
    "zeros": bytes(len(WHOLE)),
    "a plain array": WHOLE[WHOLE.index(b"\x93NUMPY") :],
    "a pickle": pickle.dumps({"keys": ["a" * 32]}),
    "no zip behind its head": WHOLE[:2] + b"x" + WHOLE[3:],
    "flipped": WHOLE.replace(b"float", b"fleat").replace(b"<f4", b"<f9"),
    "too few": part_of(np.array(["a", "b"]), np.ones((1, 4), np.float32)),
    "numbers": part_of(np.array([1]), np.ones((1, 4), np.float32)),
    "one row": part_of(np.array(["a"]), np.ones(4, np.float32)),
    "float64": part_of(np.array(["a"]), np.ones((1, 4))),
    "nan": part_of(np.array(["a"]), np.full((1, 4), np.nan, np.float32)),
    "other width": part_of(np.array(["a"]), np.ones((1, 3), np.float32)),
    "objects": part_of(np.array([None]), np.ones((1, 4), np.float32)),
}


@pytest.mark.parametrize("held", BROKEN.values(), ids=list(BROKEN))
@pytest.mark.parametrize("name", ["0" * 24, "mine"])
def test_no_broken_file_stops_a_run(name, held, manifest, encoder, tmp_path):
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    stored_embeddings(encoder, manifest[:2], store)
    stored_embeddings(encoder, manifest[2:4], store)
    path = store.folder / f"{name}.npz"
    path.write_bytes(held)
    found = stored_embeddings(encoder, manifest, store)
    assert encoder.seen == 6
    torch.testing.assert_close(found, embed_utterances(encoder, manifest))
    kept = path if name == "mine" else path.with_name(f"{name}.npz.broken")
    assert kept.read_bytes() == held  # nothing is lost, nor read again


@pytest.mark.parametrize("kind", ["empty", "half", "folder", "link", "pipe"])
def test_what_a_broken_file_held_is_computed_again(
    kind, manifest, encoder, tmp_path
):
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    wanted = stored_embeddings(encoder, manifest, store)
    (path,) = store.folder.glob("*.npz")
    held = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(held[: len(held) // 2 * (kind == "half")])
    for _ in range(2):
        assert torch.equal(stored_embeddings(encoder, manifest, store), wanted)
        assert encoder.seen == 12
    assert path.read_bytes() == held


def test_a_store_is_of_one_run_and_clears_what_was_killed(tmp_path):
    store = EmbeddingStore(tmp_path, "a" * 64)
    store.folder.mkdir()
    (store.folder / ".speechbrain_ext-99999999-0.npz").touch()
    store.lock()
    assert os.listdir(store.folder) == [LOCK]
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            with locked_folder(store.folder, patience=0.1):
                os._exit(1)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    EmbeddingStore(tmp_path, "b" * 64).lock()  # another model's is free


def test_a_full_disk_is_a_sentence_and_keeps_what_was_there(
    manifest, encoder, tmp_path, monkeypatch
):
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    stored_embeddings(encoder, manifest[:3], store)
    before = sorted(os.listdir(store.folder))
    real = os.fsync

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left while writing to"):
        stored_embeddings(encoder, manifest, store)
    monkeypatch.setattr(os, "fsync", real)
    assert sorted(os.listdir(store.folder)) == before
    encoder.seen = 0
    stored_embeddings(encoder, manifest, store)
    assert encoder.seen == 3


def test_embedding_without_direction_is_named_and_not_kept(
    manifest, encoder, tmp_path
):
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    encoder.encode_batch = lambda wavs, lengths: (
        torch.stack(
            [torch.full((1, 4), float(len(w) % 2)) for w in wavs.unbind()]
        )
        * (lengths.unsqueeze(1).unsqueeze(2) < 1)
    )
    with pytest.raises(ValueError, match="embeddings are zero .* 5"):
        stored_embeddings(encoder, manifest, store)


KILLED = """
import sys, time, torch, pandas as pd
sys.path[:0] = {paths}
from test_embedding import Encoder
from speechbrain_ext.dataio.audio import AudioError
from speechbrain_ext.inference import embedding_store
embedding_store.PART_SECONDS = 0.0
torch.manual_seed(0)
class Slow(Encoder):
    def encode_batch(self, wavs, lengths):
        time.sleep(0.2)
        return super().encode_batch(wavs, lengths)
store = embedding_store.EmbeddingStore({folder!r}, "a" * 64)
manifest = pd.read_csv({manifest!r}, dtype={{"ID": str}})
embedding_store.stored_embeddings(Slow().eval(), manifest, store, 1.0)
"""


def test_killed_run_leaves_what_it_had(manifest, encoder, tmp_path):
    manifest.to_csv(tmp_path / "m.csv", index=False)
    store = EmbeddingStore(tmp_path / "embeddings", "a" * 64)
    program = KILLED.format(
        paths=sys.path,
        folder=str(tmp_path / "embeddings"),
        manifest=str(tmp_path / "m.csv"),
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    while len(list(store.folder.glob("[!.]*.npz"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = store.read()
    assert len(kept) >= 2
    found = stored_embeddings(encoder, manifest, store, 1.0)
    assert encoder.seen == 6 - len(kept)
    torch.testing.assert_close(found, embed_utterances(encoder, manifest))


def test_embeddings_of_another_precision_are_apart(manifest, encoder, tmp_path):
    found = {}
    for precision in ("fp32", "bf16"):
        store = EmbeddingStore(tmp_path, "a" * 64, precision=precision)
        found[precision] = stored_embeddings(encoder, manifest, store)
        assert len(store.read()) == len(manifest)
    assert found["bf16"].dtype == torch.float32
    assert not torch.equal(found["fp32"], found["bf16"])
