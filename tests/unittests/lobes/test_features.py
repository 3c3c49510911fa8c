"""Filterbanks against torchaudio's Kaldi front end."""

import math

import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from speechbrain_ext.lobes.features import (
    KaldiFbank,
    LogMelSpectrogram,
    MagnitudeSpectrogram,
    SentenceMeanNorm,
    SentenceMeanVarNorm,
)


def speechlike(samples, seed=0):
    """Coloured noise with a silent stretch, an offset and a loud stretch."""
    generator = torch.Generator().manual_seed(seed)
    signal = torch.randn(samples, generator=generator).cumsum(0)
    signal = signal / signal.abs().max()
    signal[samples // 3 : samples // 2] = 0.0
    signal[samples // 2 :] *= 0.01
    return signal


@pytest.mark.parametrize("window", ["hamming", "povey"])
@pytest.mark.parametrize("n_mels", [40, 80, 81])
@pytest.mark.parametrize("use_energy", [False, True])
@pytest.mark.parametrize("sample_rate", [8000, 16000])
def test_fbank_matches_torchaudio(window, n_mels, use_energy, sample_rate):
    if sample_rate == 8000 and n_mels > 40:
        pytest.skip("torchaudio has empty filters there and warns")
    fbank = KaldiFbank(n_mels, use_energy, window, 0.0, sample_rate)
    signal = speechlike(9000)
    expected = kaldi.fbank(
        signal.unsqueeze(0) * 2**15,
        num_mel_bins=n_mels,
        use_energy=use_energy,
        window_type=window,
        sample_frequency=sample_rate,
    )
    found = fbank(signal.unsqueeze(0)).squeeze(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("samples", [400, 401, 559, 560, 16000, 32001])
def test_every_length_matches_torchaudio(samples):
    signal = speechlike(samples, seed=samples)
    expected = kaldi.fbank(
        signal.unsqueeze(0) * 2**15, num_mel_bins=80, window_type="hamming"
    )
    found = KaldiFbank()(signal.unsqueeze(0)).squeeze(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("samples", [400, 479, 480, 559, 560, 16000, 32001])
@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000])
def test_edges_that_are_not_snipped_match_torchaudio(samples, sample_rate):
    # what sherpa-onnx computes
    options = {"low_freq": 60.0, "high_freq": -400.0, "snip_edges": False}
    fbank = KaldiFbank(23, True, "povey", 0.0, sample_rate, **options)
    signal = speechlike(samples, seed=samples)
    expected = kaldi.fbank(
        signal.unsqueeze(0) * 2**15,
        num_mel_bins=23,
        use_energy=True,
        sample_frequency=sample_rate,
        **options,
    )
    found = fbank(signal.unsqueeze(0)).squeeze(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("samples", [15919, 15920, 15990])
def test_padding_adds_no_frames_to_edges_that_are_not_snipped(samples):
    fbank, norm = KaldiFbank(n_mels=40, snip_edges=False), SentenceMeanNorm()
    wavs = torch.stack([speechlike(32000), speechlike(32000, seed=1)])
    wavs[1, samples:] = 0
    both = norm(fbank(wavs), torch.tensor([1.0, samples / 32000]))
    frames = fbank(wavs[1:, :samples]).shape[1]
    assert both[1, frames - 1].any()
    assert not both[1, frames:].any()


def test_silence_is_finite():
    features = KaldiFbank(use_energy=True)(torch.zeros(1, 16000))
    assert features.isfinite().all()
    assert SentenceMeanNorm()(features).abs().max() < 1e-5


def test_autocast_changes_nothing():
    signal = speechlike(8000).unsqueeze(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = KaldiFbank()(signal)
    assert torch.equal(found, KaldiFbank()(signal))


def test_dither_comes_from_the_seeds_alone():
    fbank = KaldiFbank(dither=1.0).train()
    wavs = torch.stack([speechlike(8000), speechlike(8000)])
    first = fbank(wavs, seeds=[1, 2])
    torch.rand(5)
    assert torch.equal(first, fbank(wavs, seeds=[1, 2]))
    assert torch.equal(first.flip(0), fbank(wavs, seeds=[2, 1]))
    assert not torch.equal(first[0], first[1])


def test_dither_is_for_training_alone():
    signal = speechlike(8000).unsqueeze(0)
    fbank = KaldiFbank(dither=1.0).eval()
    assert torch.equal(fbank(signal), KaldiFbank()(signal))


def test_dither_is_as_loud_as_asked():
    # the power spectrum of silence is that of the noise: its mean energy
    # over 400 samples is 400 * dither ** 2
    fbank = KaldiFbank(use_energy=True, dither=3.0).train()
    energy = fbank(torch.zeros(1, 160000), seeds=[0])[..., 0].exp().mean()
    assert energy.item() == pytest.approx(400 * 9, rel=0.02)


def test_noise_floor_is_the_mean_energy_of_dither():
    options = {"n_mels": 40, "use_energy": True}
    weak = 10 / 2**15 * torch.randn(1600)
    signal = torch.cat([torch.zeros(160000), weak]).unsqueeze(0)
    expected = KaldiFbank(dither=3.0, **options).train()(signal, seeds=[0])
    found = KaldiFbank(noise_floor=3.0, **options).eval()(signal).exp()
    silent = expected[0, :990].exp().mean(dim=0)
    torch.testing.assert_close(
        found[0, :990], silent.expand(990, -1), rtol=0.1, atol=0
    )
    added = (found - KaldiFbank(**options)(signal).exp())[0, 1000:]
    torch.testing.assert_close(
        added, silent.expand_as(added), rtol=0.1, atol=1e-3
    )


def test_rounding_noise_is_below_a_noise_floor_of_one_step():
    generator = torch.Generator().manual_seed(0)
    rounding = (torch.rand(1, 16000, generator=generator) - 0.5) / 2**15

    def lifted(fbank):
        silent = fbank(torch.zeros(1, 16000))
        return (fbank(rounding) - silent).abs().mean()  # nepers

    assert lifted(KaldiFbank()) > 10
    assert lifted(KaldiFbank(noise_floor=1.0)) < 0.1


def test_mean_norm_of_a_padded_batch_is_that_of_each_alone():
    fbank, norm = KaldiFbank(n_mels=40), SentenceMeanNorm()
    long, short = speechlike(32000), speechlike(15990, seed=1)
    padded = torch.nn.functional.pad(short, (0, 32000 - 15990))
    lengths = torch.tensor([1.0, 15990 / 32000])
    both = norm(fbank(torch.stack([long, padded])), lengths)
    alone = norm(fbank(short.unsqueeze(0)))
    frames = alone.shape[1]
    torch.testing.assert_close(both[1:, :frames], alone)
    assert both[1, frames:].abs().max() == 0
    torch.testing.assert_close(both[:1], norm(fbank(long.unsqueeze(0))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KaldiFbank(n_mels=3), "got 3"),
        (lambda: KaldiFbank(window="hann"), "got 'hann'"),
        (lambda: KaldiFbank(dither=-1), "got -1"),
        (lambda: KaldiFbank(noise_floor=math.nan), "`noise_floor`.*got nan"),
        (lambda: KaldiFbank(sample_rate=16), "got 16"),
        (lambda: KaldiFbank(low_freq=-1), "got -1 and 0"),
        (lambda: KaldiFbank(high_freq=8001), "got 20 and 8001"),
        (lambda: KaldiFbank(low_freq=500, high_freq=-7600), "got 500 and -7"),
        (lambda: KaldiFbank()(torch.zeros(1, 399)), r"got \[1, 399\]"),
        (
            lambda: KaldiFbank(dither=1.0)(torch.zeros(2, 400), seeds=[1]),
            r"\(2\), got 1",
        ),
    ],
)
def test_bad_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("front", [LogMelSpectrogram, MagnitudeSpectrogram])
def test_padded_frames_are_those_of_each_alone(front):
    front, norm = front(), SentenceMeanVarNorm()
    wavs = 0.1 * torch.randn(3, 16000)
    samples = [16000, 12345, 8000]
    for row, count in zip(wavs, samples, strict=True):
        row[count:] = 0
    lengths = torch.tensor(samples) / 16000
    features = front(wavs)
    both = norm(features, lengths)
    for row, count in enumerate(samples):
        alone = front(wavs[row : row + 1, :count])
        frames = alone.shape[1]
        assert not both[row, frames:].any()
        # a reflected end is the one thing that padding hides
        inner = frames - 3
        torch.testing.assert_close(
            features[row, :inner], alone[0, :inner], rtol=1e-4, atol=1e-5
        )


def test_variance_norm_is_instance_norm():
    x = torch.randn(3, 50, 7) * 5 + 2
    expected = torch.nn.InstanceNorm1d(7)(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(SentenceMeanVarNorm()(x), expected)


def test_magnitudes_are_those_of_a_sine():
    time = torch.arange(16000) / 16000
    wavs = torch.sin(2 * torch.pi * 1000 * time).unsqueeze(0)
    features = MagnitudeSpectrogram(full_scale=1.0)(wavs)
    assert features.shape == (1, 97, 257)
    assert (features.argmax(dim=2) == 32).all()  # 1000 / (16000 / 512)
    # half the sum of the window
    torch.testing.assert_close(
        features.amax(dim=2), torch.full((1, 97), 100.0), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("front", [LogMelSpectrogram, MagnitudeSpectrogram])
def test_full_scale_gives_16_bit_integers(front):
    integers = torch.randint(-300, 300, (1, 16000)).float()
    torch.testing.assert_close(
        front(full_scale=2.0**15)(integers / 2**15),
        front(full_scale=1.0)(integers),
    )


def test_thin_resnets_input_matches_clova():
    # clovaai/voxceleb_trainer@8d03f1b models/ResNetSE.py in float64: what
    # conv1 of ResNetSE34 gets for these 16-bit samples, which DatasetLoader.py
    # passes on as they are. <input, directions> of each utterance, and four
    # bins of the first frame
    rng = np.random.default_rng(20261123)
    samples = np.rint(6 * rng.standard_normal((2, 3200)))
    samples[1] *= 50
    directions = torch.tensor(rng.standard_normal((2, 17, 257)))
    along = [-30.91767235423189, -8.707577855624844]
    first = [
        [0.14875577091560996, -0.6679353256228366]
        + [-0.23132463520202812, -0.725471277122272],
        [-0.7097023507354634, -0.667086977211407]
        + [0.42894167875351813, 1.3097000415792115],
    ]
    wavs = torch.tensor(samples) / 2**15  # as audio files are read

    def network_input(**arguments):
        front = MagnitudeSpectrogram(**arguments).double()
        return SentenceMeanVarNorm()(front(wavs))

    found = network_input()
    close = {"rtol": 1e-10, "atol": 1e-10}
    products = (found * directions).sum(dim=(1, 2))
    torch.testing.assert_close(products.tolist(), along, **close)
    bins = found[:, 0, [0, 1, 100, 256]]
    torch.testing.assert_close(bins.tolist(), first, **close)
    # the norm's 1e-5 is nothing to integers, and much to a quiet [-1, 1]
    quiet = network_input(full_scale=1.0)
    deviations = quiet.std(dim=(1, 2)) / found.std(dim=(1, 2))
    assert deviations[0] < 0.5 < 0.99 < deviations[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogMelSpectrogram(window="povey"), "got 'povey'"),
        (lambda: LogMelSpectrogram(pre_emphasis=1.0), "got 1.0"),
        (lambda: LogMelSpectrogram()(torch.rand(1, 256)), r"got \[1, 256\]"),
        (lambda: MagnitudeSpectrogram()(torch.rand(1, 9)), r"got \[1, 9\]"),
        (lambda: MagnitudeSpectrogram(full_scale=0), "positive, got 0"),
        (lambda: LogMelSpectrogram(full_scale=-1.0), "positive, got -1.0"),
        (lambda: LogMelSpectrogram(sample_rate=20481), "20480.*got 20481"),
        (lambda: MagnitudeSpectrogram(sample_rate=22050), "got 22050"),
        (lambda: MagnitudeSpectrogram(sample_rate=0), "1000, .* got 0"),
    ],
)
def test_bad_arguments_of_clovas_front_ends(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_filterbank_is_made_on_the_default_device():
    with torch.device("meta"):
        sketch = KaldiFbank(n_mels=40)
    made = KaldiFbank(n_mels=40)
    for name, buffer in made.named_buffers():
        assert buffer.device.type == "cpu"
        assert sketch.get_buffer(name).is_meta
        assert sketch.get_buffer(name).shape == buffer.shape


@pytest.mark.parametrize(
    "front", [KaldiFbank(40), LogMelSpectrogram(40), MagnitudeSpectrogram()]
)
@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_waveforms_of_any_type_are_computed_in_float32(front, kind):
    wavs = (0.1 * torch.randn(2, 8000)).to(kind)
    found = front(wavs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, front(wavs.float()))
    with pytest.raises(ValueError, match="int16; divide"):
        front(wavs.short())


def test_a_front_end_in_double_computes_in_double():
    wavs = 0.1 * torch.randn(2, 8000)
    front = KaldiFbank(40)
    assert front.double()(wavs).dtype == torch.float64
    assert front.half()(wavs).dtype == torch.float32
