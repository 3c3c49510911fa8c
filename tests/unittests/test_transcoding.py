"""Conversion by ffmpeg: real files where it is installed."""

import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from speechbrain_ext.dataio.transcoding import convert_corpus

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ffmpeg is not installed"
)


@pytest.fixture
def corpus(tmp_path):
    """Four files of m4a, made by ffmpeg from tones at 44.1 kHz, stereo."""
    for number in range(4):
        folder = tmp_path / "vox2" / "dev" / "aac" / f"id{number % 2}" / "s"
        folder.mkdir(parents=True, exist_ok=True)
        time = np.arange(44100) / 44100
        tone = 0.5 * np.sin(2 * np.pi * 500 * (number + 1) * time)
        soundfile.write(tmp_path / "1.wav", np.stack([tone, tone], 1), 44100)
        subprocess.run(
            [*("ffmpeg", "-v", "error", "-i", tmp_path / "1.wav")]
            + [*("-c:a", "aac", "-b:a", "96k", folder / f"{number}.m4a")],
            check=True,
        )
    return tmp_path / "vox2"


@needs_ffmpeg
@pytest.mark.parametrize("form", ["wav", "flac"])
def test_tones_stay_tones(corpus, tmp_path, form):
    target = tmp_path / "made"
    found = convert_corpus(corpus, target, form)
    assert found == {"converted": 4, "there": 0, "failed": 0}
    for number in range(4):
        name = f"dev/aac/id{number % 2}/s/{number}.{form}"
        signal, rate = soundfile.read(target / name)
        assert rate == 16000 and signal.ndim == 1
        peak = np.abs(np.fft.rfft(signal[2000:10000])).argmax() * 2
        assert peak == 500 * (number + 1)
        assert 0.45 < np.abs(signal[2000:10000]).max() < 0.55
    assert sorted(p.name for p in target.iterdir()) == [
        *("dev", "not_converted.csv")
    ]


@needs_ffmpeg
def test_only_what_is_missing_is_converted(corpus, tmp_path):
    target = tmp_path / "made"
    convert_corpus(corpus, target)
    one, *others = sorted(target.rglob("*.wav"))
    held = one.read_bytes()
    one.unlink()
    one.with_name("0.wav.tmp").write_text("half")
    times = [path.stat().st_mtime_ns for path in others]
    found = convert_corpus(corpus, target, workers=1)
    assert found == {"converted": 1, "there": 3, "failed": 0}
    assert one.read_bytes() == held
    assert times == [path.stat().st_mtime_ns for path in others]
    assert not list(target.rglob("*.tmp"))


@needs_ffmpeg
def test_broken_files_are_left_out_and_told_once(corpus, tmp_path, caplog):
    whole = (corpus / "dev/aac/id0/s/0.m4a").read_bytes()
    (corpus / "dev/aac/id0/s/8.m4a").write_bytes(whole[:2000])
    (corpus / "dev/aac/id0/s/9.M4A").write_text("no sound")
    target = tmp_path / "made"
    with pytest.raises(ValueError, match="2 of 6 files .* 0.01"):
        convert_corpus(corpus, target)
    assert len([r for r in caplog.records if "8.m4a" in r.message]) == 1
    found = convert_corpus(corpus, target, most_bad=0.4)
    assert found == {"converted": 0, "there": 4, "failed": 2}
    lines = (target / "not_converted.csv").read_text().splitlines()
    assert [line.split(",")[0][-5:] for line in lines] == [
        *("path", "8.m4a", "9.M4A")
    ]
    assert len(list(target.rglob("*.wav"))) == 4


@needs_ffmpeg
def test_bad_arguments_are_rejected(corpus, tmp_path):
    with pytest.raises(ValueError, match="got 'mp3'"):
        convert_corpus(corpus, tmp_path, "mp3")
    with pytest.raises(ValueError, match="got 1.5"):
        convert_corpus(corpus, tmp_path, most_bad=1.5)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds nothing to convert"):
        convert_corpus(tmp_path / "none", tmp_path)
    (corpus / "dev/aac/id0/s/0.mp3").touch()
    with pytest.raises(ValueError, match="0.m.. and .* would both become"):
        convert_corpus(corpus, tmp_path)


def test_a_machine_without_ffmpeg_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install ffmpeg"):
        convert_corpus(tmp_path, tmp_path)
