"""Noise and reverberation: real files, exact ratios, seeds alone."""

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_ext.augment.noise import SNR, NoiseAndReverberation


@pytest.fixture
def folders(tmp_path):
    """MUSAN's three kinds, one of them at 8 kHz, and two rooms."""
    rng = np.random.default_rng(0)
    for kind, rate, seconds in (
        ("noise/free-sound", 16000, 3.0),
        ("music/jamendo", 8000, 3.0),
        ("speech/librivox", 16000, 0.4),
    ):
        folder = tmp_path / "musan" / kind
        folder.mkdir(parents=True)
        noise = 0.1 * rng.standard_normal(int(rate * seconds))
        soundfile.write(folder / "1.wav", noise, rate)
    (tmp_path / "rirs").mkdir()
    for name, delay in (("near.wav", 1), ("far.flac", 160)):
        response = np.zeros(800)
        response[0], response[delay] = 0.9, 0.3
        soundfile.write(tmp_path / "rirs" / name, response, 16000)
    return tmp_path / "musan", tmp_path / "rirs"


def test_noise_has_the_ratio_of_its_kind(folders):
    signal = 0.3 * torch.randn(16000)
    augment = NoiseAndReverberation(folders[0], probability=1.0)
    ratios = {kind: [] for kind in SNR}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        path = augment.noises[0]  # what the augmentation draws, drawn again
        rng.random(), rng.integers(1)
        path = augment.noises[rng.integers(3)]
        added = augment(signal, seed) - signal
        power = signal.square().mean() / added.square().mean()
        kind = next(kind for kind in SNR if f"/{kind}/" in path)
        ratios[kind].append(10 * power.log10().item())
    for kind, (low, high) in SNR.items():
        found = ratios[kind]
        assert low - 0.01 <= min(found) < max(found) <= high + 0.01, kind
        assert max(found) - min(found) > (high - low) / 2, kind


def test_babble_is_several_voices_each_with_its_ratio(tmp_path):
    # voices that do not correlate, so that each is found again in the sum
    folder = tmp_path / "speech" / "librivox"
    folder.mkdir(parents=True)
    time = 2 * np.pi * np.arange(16000) / 16000
    for voice in range(9):
        tone = 0.3 * np.sin(100 * (voice + 1) * time)
        soundfile.write(folder / f"{voice}.wav", tone, 16000, "FLOAT")
    augment = NoiseAndReverberation(tmp_path, probability=1.0)
    signal = torch.ones(16000)
    voices = []
    for seed in range(40):
        added = (augment(signal, seed) - signal).double().numpy()
        power = 2 * np.abs(np.fft.rfft(added) / 16000) ** 2
        ratios = -10 * np.log10(power[power > 1e-4])
        assert 13 - 0.01 < ratios.min() and ratios.max() < 20 + 0.01
        voices.append(len(ratios))
    assert set(voices) == {3, 4, 5, 6, 7}
    # there may be fewer speeches than voices; and one alone, as WeSpeaker
    for number in range(2, 9):
        (folder / f"{number}.wav").unlink()
    few = NoiseAndReverberation(tmp_path, probability=1.0)
    assert few(signal, 1).isfinite().all()
    one = NoiseAndReverberation(
        tmp_path, probability=1.0, babble=(1, 1), snr={"speech": (30, 30)}
    )
    power = (one(signal, 1) - signal).square().mean()
    assert power.item() == pytest.approx(1e-3, rel=1e-3)


def test_folders_above_the_noise_folder_do_not_name_a_kind(folders, tmp_path):
    above = tmp_path / "speech" / "noise"
    above.mkdir(parents=True)
    folders[0].rename(above / "musan")
    augment = NoiseAndReverberation(above / "musan")
    assert sorted(augment.kinds.values()) == sorted(SNR)
    assert len(augment.speeches) == 1
    # its own name counts, for a single kind of MUSAN, and the nearest one wins
    alone = NoiseAndReverberation(above / "musan" / "music")
    assert set(alone.kinds.values()) == {"music"}
    assert NoiseAndReverberation(above).kinds == augment.kinds


def test_kinds_come_equally_often_or_by_their_files(folders):
    for number in range(8):  # most files are noise
        noise = 0.1 * np.random.default_rng(number).standard_normal(16000)
        path = folders[0] / "noise" / f"more{number}.wav"
        soundfile.write(path, noise, 16000)
    shares = {}
    for draw_by in ("folder", "kind"):
        augment = NoiseAndReverberation(
            *folders, probability=1.0, draw_by=draw_by
        )
        augment._noise = lambda path, samples, rng: path  # nothing is read
        drawn = [str(augment.draw(1600, seed)[0]) for seed in range(800)]
        shares[draw_by] = [
            sum(f"/{kind}/" in path for path in drawn) / 800 for kind in SNR
        ]
    # noise, music, speech: nine files and two of eleven; a quarter each
    assert shares["folder"] == pytest.approx([9 / 22, 1 / 22, 1 / 22], abs=0.05)
    assert shares["kind"] == pytest.approx([1 / 4, 1 / 4, 1 / 4], abs=0.05)
    with pytest.raises(ValueError, match="`draw_by`.*got 'file'"):
        NoiseAndReverberation(draw_by="file")


def test_reverberation_is_a_convolution_of_energy_one(folders):
    signal = torch.randn(4000)
    augment = NoiseAndReverberation(rir_folder=folders[1], probability=1.0)
    assert [path[-8:] for path in augment.responses] == ["far.flac", "near.wav"]
    for seed in range(8):
        found = augment(signal, seed)
        delay = 160 if (found[1] - signal[1] * 0.9487).abs() < 1e-3 else 1
        delayed = torch.nn.functional.pad(signal, (delay, 0))[:4000]
        expected = (0.9 * signal + 0.3 * delayed) / 0.9**0.5
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_probability_and_seeds(folders):
    signal = torch.randn(2000)
    augment = NoiseAndReverberation(*folders, probability=0.6)
    found = [augment(signal, seed) for seed in range(300)]
    changed = [not torch.equal(one, signal) for one in found]
    assert 0.5 < np.mean(changed) < 0.7
    for seed in (0, 7, 123):
        np.random.seed(seed)
        torch.manual_seed(seed)
        assert torch.equal(augment(signal, seed), found[seed])
    assert all(one.isfinite().all() and len(one) == 2000 for one in found)


def test_a_batch_is_changed_as_each_of_its_signals(folders):
    augment = NoiseAndReverberation(*folders, probability=0.8)
    samples = [4000, 3000, 4000, 1000] * 6
    signals, noises = torch.zeros(24, 4000), torch.zeros(24, 4000)
    responses = torch.zeros(24, 800)
    for row, size in enumerate(samples):
        signals[row, :size] = torch.randn(size)
        noise, response = augment.draw(size, row)
        if noise is not None:
            noises[row, :size] = noise
        if response is not None:
            responses[row] = response
    assert noises.any(1).sum() > 3 and responses.any(1).sum() > 3
    lengths = torch.tensor(samples) / 4000
    found = augment.apply(signals, lengths, noises, responses)
    for row, size in enumerate(samples):
        alone = augment(signals[row, :size], row)
        torch.testing.assert_close(
            found[row, :size], alone, rtol=1e-4, atol=1e-5
        )
        assert not found[row, size:].any()


def test_silence_stays_finite(folders):
    augment = NoiseAndReverberation(*folders, probability=1.0)
    for seed in range(6):
        assert not augment(torch.zeros(1000), seed).any()
    soundfile.write(folders[0] / "noise" / "0.wav", np.zeros(999), 16000)
    augment = NoiseAndReverberation(folders[0] / "noise", probability=1.0)
    signal = torch.randn(1000)
    assert all(augment(signal, seed).isfinite().all() for seed in range(8))


def test_broken_noises_are_left_out_and_told_once(folders, caplog):
    (folders[0] / "noise" / "broken.wav").write_text("no sound")
    augment = NoiseAndReverberation(folders[0], probability=1.0)
    assert len(augment.noises) == 3
    assert sum("broken.wav" in each.message for each in caplog.records) == 1
    for path in augment.noises:
        with open(path, "w") as stream:
            stream.write("no sound")
    with pytest.raises(ValueError, match="`noise_folder`.*1.wav and all"):
        NoiseAndReverberation(folders[0])


def test_folders_that_are_links_are_searched(folders, tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    for kind in ("noise", "music"):
        (made / kind).symlink_to(folders[0] / kind)
    (made / "music" / "jamendo" / "back").symlink_to(made)
    augment = NoiseAndReverberation(made, probability=1.0)
    assert sorted(augment.kinds.values()) == ["music", "noise"]


def test_broken_responses_are_left_out_before_the_training(folders, caplog):
    (folders[1] / "broken.wav").write_text("no sound")
    (folders[1] / "._near.wav").write_text("of macOS")
    augment = NoiseAndReverberation(rir_folder=folders[1], probability=1.0)
    assert [path[-8:] for path in augment.responses] == ["far.flac", "near.wav"]
    told = [each.message for each in caplog.records]
    assert len(told) == 1 and "broken.wav of `rir_folder`" in told[0]


def test_bad_arguments_are_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        NoiseAndReverberation(probability=1.5)
    with pytest.raises(ValueError, match="`snr`.*hiss"):
        NoiseAndReverberation(snr={"hiss": (0, 1)})
    with pytest.raises(ValueError, match=r"music: \(9, 1\)"):
        NoiseAndReverberation(snr={"music": (9, 1)})
    for one in (5, [5], ["a", "b"]):
        with pytest.raises(ValueError, match="`snr`.*noise: "):
            NoiseAndReverberation(snr={"noise": one})
    for one in ((0, 2), [3], 3, (1.5, 2)):  # `babble: 3` comes as [3]
        with pytest.raises(ValueError, match=r"`babble`.*such as \[3, 7\]"):
            NoiseAndReverberation(babble=one)
    with pytest.raises(ValueError, match="`noise_folder`.*nowhere"):
        NoiseAndReverberation(noise_folder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`rir_folder` must have audio files"):
        NoiseAndReverberation(rir_folder=tmp_path)
