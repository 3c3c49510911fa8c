"""Long files in blocks: the same embedding as from the whole file."""

import functools
import gc

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.inference.speech import NoSpeechError, SpeechFeatures
from speechbrain_ext.inference.streaming import (
    RunningPooling,
    block_ranges,
    can_stream,
    is_running,
    piecewise_embedding,
    stream_embedding,
)
from speechbrain_ext.lobes.features import (
    KaldiFbank,
    LogMelSpectrogram,
    MagnitudeSpectrogram,
    SentenceMeanNorm,
    SentenceMeanVarNorm,
)
from speechbrain_ext.lobes.models.DFResNet import DFResNet
from speechbrain_ext.lobes.models.ResNet import GOLDEN_GEMINI, ResNet
from speechbrain_ext.lobes.models.TDNN import ResSETDNN
from speechbrain_ext.lobes.models.VGG import VGG
from speechbrain_ext.nnet import pooling
from speechbrain_ext.nnet.pooling import (
    AttentiveStatisticsPooling,
    ChannelAttentiveStatisticsPooling,
    MaxPooling,
    MultiHeadAttentivePooling,
    SelfAttentivePooling,
    TemporalAveragePooling,
    TemporalStatisticsPooling,
)

RUNNING = [
    TemporalAveragePooling,
    TemporalStatisticsPooling,
    functools.partial(TemporalStatisticsPooling, unbiased=False),
    MaxPooling,
    SelfAttentivePooling,
    MultiHeadAttentivePooling,
    AttentiveStatisticsPooling,
    ChannelAttentiveStatisticsPooling,
]
CONTEXT = functools.partial(
    ChannelAttentiveStatisticsPooling, global_context=True
)
small = functools.partial(ResNet, 24, (1, 1, 1, 1), 4, 8)


def mel():
    """The smallest front end."""
    return KaldiFbank(24)


def modules_of(front_end, norm, model):
    """Modules of an encoder whose batch norms do something."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    modules = {
        "compute_features": SpeechFeatures(front_end),
        "mean_var_norm": norm,
        "embedding_model": model,
    }
    for module in modules.values():
        module.eval()
    return modules


def whole(modules, wavs):
    """The embedding of a waveform."""
    one = torch.ones(1)
    features = modules["compute_features"](wavs)
    features = modules["mean_var_norm"](features, one)
    return modules["embedding_model"](features, one)


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """A stereo file of 49.7 s at 22.05 kHz whose sound changes."""
    rng = np.random.default_rng(0)
    rate, seconds = 22050, 49.7
    time = np.arange(int(rate * seconds)) / rate
    pitch = 120 + 60 * np.sin(2 * np.pi * time / 17)
    wave = np.sin(2 * np.pi * np.cumsum(pitch) / rate).cumsum() % 1 - 0.5
    wave = wave * (1.1 + np.sin(2 * np.pi * time / 2.3))
    wave = 0.2 * (wave + 0.1 * rng.normal(size=len(time)))
    path = tmp_path_factory.mktemp("long") / "voice.flac"
    soundfile.write(path, np.stack([wave, 0.5 * wave], 1), rate)
    return str(path), len(wave), rate, 16000


@pytest.mark.parametrize("kind", RUNNING)
@torch.no_grad()
def test_running_pooling_matches_pooling_of_all_frames(kind):
    module = kind(8).eval()
    frames = 3 * torch.randn(1, 50, 8) + torch.arange(8) - 4
    running = RunningPooling(module)
    for part in frames.split([1, 20, 0, 29], dim=1):
        found = running.add(part)
    torch.testing.assert_close(found, module(frames))


def test_every_pooling_is_covered():
    kinds = {
        kind
        for kind in vars(pooling).values()
        if isinstance(kind, type) and issubclass(kind, pooling.Pooling)
    }
    covered = {type(kind(8)) for kind in RUNNING}
    assert covered == kinds - {pooling.Pooling}
    assert all(is_running(kind(8)) for kind in RUNNING)
    assert not is_running(CONTEXT(8))
    with pytest.raises(ValueError, match="needs all frames at once"):
        RunningPooling(CONTEXT(8))


@pytest.mark.parametrize(
    "make",
    [
        lambda: (mel(), SentenceMeanNorm(), small()),
        lambda: (
            mel(),
            SentenceMeanVarNorm(),
            small(
                block="bottleneck",
                all_stages=True,
                pooling=MultiHeadAttentivePooling,
            ),
        ),
        lambda: (
            LogMelSpectrogram(24),
            SentenceMeanVarNorm(),
            small(strides=GOLDEN_GEMINI, pooling=AttentiveStatisticsPooling),
        ),
        lambda: (
            mel(),
            SentenceMeanNorm(),
            DFResNet(24, (1, 1, 1, 1), (4, 4, 4, 8, 8), 8),
        ),
        lambda: (LogMelSpectrogram(24), SentenceMeanVarNorm(), VGG(24, 8, 0.1)),
        lambda: (
            MagnitudeSpectrogram(),
            SentenceMeanVarNorm(),
            ResNet(257, (1,), 4, 8, strides=(8,), pooling=MaxPooling),
        ),
    ],
    ids=["mean", "stages", "gemini", "dfresnet", "vgg", "magnitude"],
)
@torch.no_grad()
def test_streamed_embedding_matches_that_of_the_whole_file(make, voice):
    modules = modules_of(*make())
    assert can_stream(modules)
    expected = whole(modules, read_audio(voice[0])[None])
    longest = []
    front_end = modules["compute_features"].front_end
    hook = front_end.register_forward_hook(
        lambda module, given, out: longest.append(given[0].shape[1])
    )
    found = stream_embedding(modules, *voice)
    hook.remove()
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 1e-5
    assert max(longest) <= 36 * 16000 and len(longest) == 2 * 3
    # the poolings are free again
    torch.testing.assert_close(
        whole(modules, read_audio(voice[0])[None]), expected
    )


@torch.no_grad()
def test_no_block_leaves_anything_behind(tmp_path):
    path, rate = str(tmp_path / "a.wav"), 8000
    samples = np.random.default_rng(0).normal(0, 0.1, 24 * 6 * rate)
    soundfile.write(path, samples, rate)
    modules = modules_of(mel(), SentenceMeanNorm(), small())
    held = []

    def count(module, given):
        gc.collect()
        tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
        held.append(sum(t.nbytes for t in tensors if not t.is_sparse))

    hook = modules["embedding_model"].register_forward_pre_hook(count)
    stream_embedding(modules, path, len(samples), rate, 16000)
    hook.remove()
    # the sums of the poolings are there from the second block on
    assert len(held) == 6
    assert max(held[2:5]) == min(held[2:5])


@pytest.mark.parametrize(
    "make",
    [
        lambda: small(reduction=4),
        lambda: ResSETDNN(24, 8, pooled_channels=16, lin_neurons=8),
    ],
    ids=["resnet", "tdnn"],
)
@torch.no_grad()
def test_squeeze_excitation_is_close(make, voice):
    modules = modules_of(mel(), SentenceMeanNorm(), make())
    assert can_stream(modules)
    expected = whole(modules, read_audio(voice[0])[None])
    found = stream_embedding(modules, *voice)
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=-1)
    assert cosine > 0.999


def test_what_cannot_be_accumulated_is_known():
    norm = SentenceMeanNorm()
    for parts in (
        (torch.nn.Identity(), norm, small()),
        (SpeechFeatures(mel()), torch.nn.BatchNorm1d(2), small()),
        (SpeechFeatures(mel()), norm, torch.nn.Identity()),
        (SpeechFeatures(mel()), norm, small(pooling=CONTEXT)),
        # 100.2 frames per second
        (
            SpeechFeatures(KaldiFbank(8, sample_rate=22050), 22050),
            norm,
            small(),
        ),
    ):
        names = ("compute_features", "mean_var_norm", "embedding_model")
        assert not can_stream(dict(zip(names, parts, strict=True)))


@torch.no_grad()
def test_pieces_are_averaged_by_duration(voice):
    modules = modules_of(mel(), SentenceMeanNorm(), small(pooling=CONTEXT))
    found = piecewise_embedding(functools.partial(whole, modules), *voice)
    path, frames, rate, _ = voice
    expected, length = 0.0, 0.0
    for start, stop in ((0, 24), (24, 49.7)):  # a short rest is added
        signal = read_audio(path, int(start * rate), int(stop * rate))
        part, weight = whole(modules, signal[None]), (stop - start) / 49.7
        expected = expected + weight * part / part.norm()
        length += weight * part.norm()
    expected = length * expected / expected.norm()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_silence_in_a_long_file(tmp_path):
    rate = 8000
    samples = np.zeros(70 * rate)
    modules = modules_of(mel(), SentenceMeanNorm(), small())
    encode = functools.partial(whole, modules)
    place = str(tmp_path / "a.wav"), len(samples), rate, 16000
    soundfile.write(place[0], samples, rate)
    for call in (
        lambda: stream_embedding(modules, *place),
        lambda: piecewise_embedding(encode, *place),
    ):
        with pytest.raises(NoSpeechError, match="a.wav"):
            call()
    # silent blocks between others are as in the whole file
    noise = np.random.default_rng(0).normal(0, 0.1, 8 * rate)
    samples[: len(noise)] = samples[-len(noise) :] = noise
    soundfile.write(place[0], samples, rate)
    expected = whole(modules, read_audio(place[0])[None])
    torch.testing.assert_close(stream_embedding(modules, *place), expected)
    assert piecewise_embedding(encode, *place).isfinite().all()


@pytest.mark.parametrize("frames", [1, 23, 24, 25, 48, 49, 72, 100])
def test_blocks_cover_every_second_once(frames):
    covered = []
    for start, stop, first, last in block_ranges(frames, 1):
        assert start % 8 == 0 and stop <= frames
        covered += list(range(start + first, int(min(start + last, frames))))
    assert covered == list(range(frames))
