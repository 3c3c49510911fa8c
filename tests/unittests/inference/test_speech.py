"""Silence and scraps have no speaker, wherever they stand in a signal."""

import pickle

import pytest
import torch

from speechbrain_ext.inference.speech import (
    NoSpeechError,
    SpeechFeatures,
    no_speech_reasons,
    require_speech,
    seconds_of_sound,
)


def sound(seconds, rate=16000):
    return torch.randn(round(seconds * rate)) * 0.1


@pytest.mark.parametrize("rate", [8000, 16000])
def test_sound_is_measured_without_constant_ends(rate):
    wavs = torch.full((4, 3 * rate), 0.25)
    wavs[1, rate : 2 * rate] = sound(1, rate)
    wavs[2, : rate // 2] = sound(0.5, rate)
    wavs[3] = sound(3, rate)
    found = seconds_of_sound(wavs, rate)
    expected = torch.tensor([0, 1, 0.5, 3])
    torch.testing.assert_close(found, expected, rtol=0, atol=3 / rate)
    assert found[0] == 0


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (torch.zeros(16000), "digital silence"),
        (torch.full((16000,), -1 / 128), "digital silence"),
        (1e-7 * torch.randn(16000), "digital silence"),
        (torch.zeros(1), "digital silence"),
        (torch.zeros(0), "digital silence"),
        (sound(0.0999), "0.100 s of sound, less"),
        (sound(0.025), "0.025 s of sound, less"),
        (torch.cat([sound(0.05), torch.zeros(50000)]), "0.050 s of sound"),
        (torch.cat([sound(1), torch.tensor([torch.nan])]), "not finite"),
        (torch.cat([sound(1), torch.tensor([torch.inf])]), "not finite"),
    ],
)
def test_require_speech_rejects(signal, reason):
    with pytest.raises(NoSpeechError, match=rf"no speech: a.wav \(.*{reason}"):
        require_speech(signal, 16000, "a.wav")


@pytest.mark.parametrize(
    "signal", [sound(0.1), 2**-15 * sound(1).sign(), 1e3 * sound(2)]
)
def test_speech_is_not_refused(signal):
    require_speech(signal, 16000, "a.wav")
    require_speech(signal[None], 16000, "a.wav")


def test_message_names_twenty_and_counts_all():
    error = NoSpeechError({f"u{n:02}": "digital silence" for n in range(23)})
    assert "23 utterances have no speech: u00 (digital silence)" in str(error)
    assert "u19" in str(error) and "u20" not in str(error)
    assert "and 3 more; restore the audio" in str(error)
    assert isinstance(error, ValueError)
    assert isinstance(error, RuntimeError)  # which pyannote.audio catches
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) and copy.reasons == error.reasons


def test_features_refuse_rows_in_evaluation_alone():
    front = torch.nn.Linear(16000, 4)
    features = SpeechFeatures(front, 16000)
    wavs = torch.stack([sound(1), torch.zeros(16000), sound(1)])
    assert torch.equal(features(wavs), front(wavs))  # training
    features.eval()
    with pytest.raises(NoSpeechError, match="signal 2 of 3 .digital silence"):
        features(wavs)
    assert torch.equal(features(wavs[::2]), front(wavs[::2]))
    assert no_speech_reasons(wavs[::2], 16000) == ["", ""]


def test_a_look_at_a_few_samples_gives_the_same_reasons():
    generator = torch.Generator().manual_seed(5)
    for number in range(300):
        draw = torch.rand(3, generator=generator)
        samples = int(1 + 9000 * draw[0] ** 2)
        wavs = torch.zeros(4, samples)
        start = int(samples * draw[1])
        stop = start + int((samples - start) * draw[2])
        wavs[1, start:stop] = torch.rand(stop - start, generator=generator)
        wavs[2] = torch.rand(samples, generator=generator)
        wavs[3] = 0.3
        wavs[number % 4, samples // 2] = (0.0, float("nan"), 1.0)[number % 3]
        seconds = seconds_of_sound(wavs, 8000)
        for row, reason in enumerate(no_speech_reasons(wavs, 8000)):
            if not wavs[row].isfinite().all():
                assert "not finite" in reason
            else:
                assert bool(reason) == (seconds[row] < 0.1 * (1 - 1e-6))
