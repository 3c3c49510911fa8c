"""Enrolment, verification and identification from files."""

import shutil

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.speaker import SpeakerRecognition

from speechbrain_ext.dataio.audio import AudioError
from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.inference.export import export_pretrained
from speechbrain_ext.inference.speaker import SpeakerVerifier
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.processing.back_end import BackEnd
from speechbrain_ext.processing.calibration import (
    Calibration,
    save_calibrations,
)
from speechbrain_ext.processing.cohort_file import save_cohort

RECIPE = """\
compute_features: !new:speechbrain_ext.lobes.features.KaldiFbank
    n_mels: 24
mean_var_norm: !new:speechbrain_ext.lobes.features.SentenceMeanNorm
embedding_model: !new:speechbrain_ext.lobes.models.ResNet.ResNet
    input_size: 24
    block_sizes: [1, 1, 1, 1]
    channels: 4
    lin_neurons: 8
classifier: !name:speechbrain_ext.nnet.classifiers.CosineClassifier
    input_size: 8
"""


def voice(pitch, seconds=1.0, rate=16000, seed=0):
    """A buzz with noise."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(size=len(time))
    return 0.2 * (time * pitch % 1 - 0.5) + 0.02 * noise


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A pretrained folder of an untrained encoder."""
    labels = CategoricalEncoder()
    labels.update_from_iterable(["a", "b"])
    torch.manual_seed(0)
    modules = {
        "embedding_model": ResNet(24, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 2),
    }
    folder = tmp_path_factory.mktemp("made") / "pretrained"
    return export_pretrained(folder, RECIPE, modules, labels, 8)


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of it."""
    return shutil.copytree(exported, tmp_path / "pretrained")


@pytest.fixture
def verifier(exported):
    """A verifier without calibration and cohort."""
    return SpeakerVerifier.from_hparams(source=str(exported))


@pytest.fixture
def files(tmp_path):
    """Three files of two voices."""
    paths = [tmp_path / f"{name}.wav" for name in "abc"]
    for path, pitch in zip(paths, (100, 100, 300), strict=True):
        soundfile.write(path, voice(pitch, seed=len(path.name)), 16000)
    return paths


def describe(folder):
    """Adds calibrations and a cohort to a folder."""
    fitted = {
        "cosine": Calibration([10.0], -5.0, ["cosine"]),
        "asnorm": Calibration([2.0], -1.0, ["asnorm"]),
    }
    back_end = BackEnd(torch.randn(20, 8), [str(i) for i in range(20)], 10)
    save_calibrations(folder / "calibration.json", fitted)
    path = folder / "normalization.npz"
    save_cohort(path, back_end, model_fingerprint(folder))
    return back_end


def test_speechbrains_methods_give_speechbrains_values(
    verifier, exported, files
):
    plain = SpeakerRecognition.from_hparams(source=str(exported))
    paths = [str(path) for path in files]
    for other in paths[1:]:
        for found, expected in zip(
            verifier.verify_files(paths[0], other),
            plain.verify_files(paths[0], other),
            strict=True,
        ):
            assert torch.equal(found, expected)
    wavs = torch.stack([verifier.load_audio(path) for path in paths])
    lengths = torch.tensor([1.0, 0.5, 1.0])
    for normalize in (False, True):
        assert torch.equal(
            verifier.encode_batch(wavs, lengths, normalize),
            plain.encode_batch(wavs, lengths, normalize),
        )
    found = verifier.verify_batch(wavs, wavs.flip(0), lengths, lengths.flip(0))
    expected = plain.verify_batch(wavs, wavs.flip(0), lengths, lengths.flip(0))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    score = found[0].max().item()
    assert not verifier.verify_batch(wavs, wavs, threshold=score + 1)[1].any()


def test_calibrated_threshold_replaces_speechbrains(folder, files):
    verifier = SpeakerVerifier.from_hparams(source=str(folder))
    assert verifier.cosine_threshold() == 0.25
    with pytest.raises(ValueError, match="needs a calibration of cosine"):
        verifier.cosine_threshold(0.5)
    paths = [str(path) for path in files[:2]]
    score = verifier.verify_files(*paths)[0].item()
    for shift, same in ((-0.01, True), (0.01, False)):
        fitted = Calibration([10.0], -10 * (score + shift), ["cosine"])
        (folder / "calibration.json").unlink(missing_ok=True)
        save_calibrations(folder / "calibration.json", {"cosine": fitted})
        verifier = SpeakerVerifier.from_hparams(source=folder)
        assert verifier.cosine_threshold() == pytest.approx(score + shift)
        assert verifier.verify_files(*paths)[1].item() is same
        assert verifier.cosine_threshold(0.01) > verifier.cosine_threshold()


def test_fingerprint_stays_with_calibration_and_cohort(folder, exported):
    describe(folder)
    assert model_fingerprint(folder) == model_fingerprint(exported)


def test_verify_matches_scores_of_the_back_end(folder, files):
    back_end = describe(folder)
    verifier = SpeakerVerifier.from_hparams(source=str(folder))
    verifier.enrol("ada", files[:2])
    rows = torch.cat([verifier.encode_stream(path)[0] for path in files])
    unit = torch.nn.functional.normalize(rows, dim=1)
    model = unit[:2].mean(dim=0, keepdim=True)
    pair = torch.cat([model, rows[2:]]).clone()
    for scoring, slope, bias in (("asnorm", 2, -1), ("cosine", 10, -5)):
        found = verifier.verify("ada", files[2], 0.1, scoring)
        expected = back_end.scores(scoring, pair, [0], [1]).item()
        assert found.score == pytest.approx(expected, abs=1e-5)
        ratio = slope * found.score + bias
        assert found.log_likelihood_ratio == pytest.approx(ratio, abs=1e-6)
        assert found.same_speaker == (ratio > np.log(0.9 / 0.1))
        assert found.p_target == 0.1
    assert verifier.verify("ada", files[2]).scoring == "asnorm"
    verifier.enrol("one", files[2])  # the mean is subtracted from both sides
    found = verifier.verify("one", files[2], scoring="cosine_mean")
    assert found.score == pytest.approx(1, abs=1e-5)
    verifier.enrolments.remove("one")
    found = verifier.identify(files[2])
    assert found.candidates[0].name == "ada"
    odds = np.exp(found.candidates[0].log_likelihood_ratio)
    assert found.p_nobody == pytest.approx(1 / (1 + odds), rel=1e-6)


def test_identify_ranks_the_enrolled(verifier, files):
    verifier.enrol("low", files[0])
    verifier.enrol("high", [files[2]])
    found = verifier.identify(files[2], top=1)
    assert found.name == "high" and len(found.candidates) == 1
    assert found.candidates[0].score == pytest.approx(1, abs=1e-6)


def test_enrolments_are_kept_in_a_file(verifier, exported, files, tmp_path):
    path = tmp_path / "people" / "enrolled.npz"
    verifier.use_enrolments(path)
    verifier.enrol("ada", files[:2])
    again = SpeakerVerifier.from_hparams(source=str(exported))
    again.use_enrolments(path)
    assert again.verify("ada", files[1]) == verifier.verify("ada", files[1])
    again.enrolments.remove("ada")
    with pytest.raises(ValueError, match="'ada' is not enrolled in"):
        verifier.verify("ada", files[0])


def test_enrolments_of_another_encoder_are_rejected(
    verifier, folder, files, tmp_path
):
    path = tmp_path / "enrolled.npz"
    verifier.use_enrolments(path)
    verifier.enrol("ada", files[0])
    state = torch.load(folder / "embedding_model.ckpt")
    state["embedding.bias"] += 1
    torch.save(state, folder / "embedding_model.ckpt")
    other = SpeakerVerifier.from_hparams(source=str(folder))
    with pytest.raises(
        ValueError, match="enrolled.npz has the enrolments of a"
    ):
        other.use_enrolments(path)


def test_enrolments_need_a_place_of_their_own(verifier, exported, tmp_path):
    with pytest.raises(ValueError, match="lies in the pretrained folder"):
        verifier.use_enrolments(exported / "enrolled.npz")
    verifier.fingerprint = None
    with pytest.raises(ValueError, match="has no fingerprint"):
        verifier.use_enrolments(tmp_path / "enrolled.npz")


def test_names_are_checked_before_files_are_read(verifier, files, tmp_path):
    verifier.enrol("ada", files[0])
    missing = tmp_path / "missing.wav"
    with pytest.raises(ValueError, match="'ada' is enrolled already"):
        verifier.enrol("ada", missing)
    with pytest.raises(ValueError, match="'eve' is not enrolled"):
        verifier.verify("eve", missing)
    with pytest.raises(ValueError, match="'bob' needs one file or more"):
        verifier.enrol("bob", [])
    with pytest.raises(ValueError, match="prior of 0.1 needs a calibration"):
        verifier.identify(missing, p_known=0.1)
    verifier.enrol("ada", files[2], replace=True)
    assert verifier.verify("ada", files[2]).score == pytest.approx(1, abs=1e-6)


def unusable(folder):
    """Files that cannot be used, the error and words of its message."""
    good = voice(100)
    nan = good.copy()
    nan[5000] = np.nan
    made = {
        "nan.wav": (nan, "FLOAT", AudioError, "not finite"),
        "silence.wav": (np.zeros(16000), "PCM_16", NoSpeechError, "silence"),
        "short.wav": (good[:800], "PCM_16", NoSpeechError, "0.050 s of sound"),
        "one.wav": (good[:1], "PCM_16", NoSpeechError, "silence"),
        "nothing.wav": (good[:0], "PCM_16", AudioError, "no samples"),
    }
    for name, (samples, kind, error, words) in made.items():
        soundfile.write(folder / name, samples, 16000, kind)
        yield name, error, words
    (folder / "text.wav").write_text("no audio" * 1000)
    yield "text.wav", AudioError, "cannot be used"
    soundfile.write(folder / "cut.wav", good, 16000)
    whole = (folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[:5000])
    yield "cut.wav", AudioError, "cannot be used"
    (folder / "folder.wav").mkdir()
    yield "folder.wav", AudioError, "a folder"
    yield "missing.wav", FileNotFoundError, "does not exist"


def test_files_that_cannot_be_used_are_named(verifier, files, tmp_path):
    verifier.enrol("ada", files[0])
    for name, error, words in unusable(tmp_path):
        path = tmp_path / name
        for call in (
            lambda path=path: verifier.enrol("bob", [files[1], path]),
            lambda path=path: verifier.verify("ada", path),
            lambda path=path: verifier.identify(path),
            lambda path=path: verifier.encode_stream(path),
            lambda path=path: verifier.verify_files(str(path), str(files[0])),
        ):
            with pytest.raises(error, match=words) as caught:
                call()
            assert name in str(caught.value)
            assert "prepare.json" not in str(caught.value)
    assert list(verifier.enrolments.read()) == ["ada"]


def test_long_files_are_encoded_in_blocks(verifier, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, voice(120, seconds=61.5), 16000)
    seen = []
    front_end = verifier.mods.compute_features.front_end
    front_end.register_forward_hook(
        lambda module, given, out: seen.append(given[0].shape[1])
    )
    found = verifier.encode_stream(path)
    assert max(seen) == 36 * 16000
    expected = verifier.encode_batch(verifier.load_audio(path)[None])
    assert found.shape == expected.shape == (1, 1, 8)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    # the same by SpeechBrain's method, which takes the whole file
    verifier.enrol("ada", path)
    other = tmp_path / "other.wav"
    soundfile.write(other, voice(200), 16000)
    score = verifier.verify_files(str(path), str(other))[0].item()
    assert verifier.verify("ada", other).score == pytest.approx(score, abs=1e-4)


def test_other_networks_are_encoded_in_pieces(verifier, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, voice(120, seconds=61.5), 16000)

    class Other(type(verifier.mods.embedding_model.pooling)):
        """A pooling that this package does not know."""

    verifier.mods.embedding_model.pooling = Other()
    found = verifier.encode_stream(path)
    assert found.shape == (1, 1, 8)
    whole = verifier.encode_batch(verifier.load_audio(path)[None])
    assert torch.nn.functional.cosine_similarity(found, whole, dim=-1) > 0.99


def test_formats_and_rates_are_read(verifier, tmp_path):
    wave = voice(150, rate=48000)
    soundfile.write(tmp_path / "a.wav", np.stack([wave] * 3, 1), 48000)
    soundfile.write(tmp_path / "a.aiff", wave, 48000)
    soundfile.write(tmp_path / "a.ogg", wave, 48000)
    soundfile.write(tmp_path / "a.flac", wave, 48000, "PCM_24")
    verifier.enrol("a", tmp_path / "a.wav")
    for kind in ("aiff", "ogg", "flac"):
        found = verifier.verify("a", tmp_path / f"a.{kind}")
        assert found.score > 0.9, kind


def test_a_folder_loads_without_trust_as_by_from_hparams(folder, files):
    describe(folder)
    trusted = SpeakerVerifier.from_hparams(source=str(folder))
    verifier = SpeakerVerifier.from_folder(folder)
    assert verifier.fingerprint == trusted.fingerprint
    for one in (verifier, trusted):
        one.enrol("ada", files[:2])
    for scoring in ("asnorm", "cosine", "cosine_mean"):
        found = verifier.verify("ada", files[2], scoring=scoring)
        assert found == trusted.verify("ada", files[2], scoring=scoring)
    wavs = verifier.load_audio(files[0])[None]
    for normalize in (False, True):
        assert torch.equal(
            verifier.encode_batch(wavs, normalize=normalize),
            trusted.encode_batch(wavs, normalize=normalize),
        )


def test_a_folder_that_calls_a_function_is_refused(folder):
    with open(folder / "hyperparams.yaml", "a") as file:
        file.write("more: !apply:os.getcwd []\n")
    with pytest.raises(ValueError, match="os.getcwd is refused"):
        SpeakerVerifier.from_folder(folder)


def test_a_folder_that_does_not_exist_is_not_sought_on_the_hub(tmp_path):
    source = tmp_path / "a" / "pretrained"
    with pytest.raises(FileNotFoundError, match="pretrained does not exist; "):
        SpeakerVerifier.from_hparams(source)
