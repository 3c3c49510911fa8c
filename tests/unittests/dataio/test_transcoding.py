"""Conversion by ffmpeg: real files where it is installed."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from speechbrain_ext.dataio.transcoding import _pairs, convert_corpus

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
    assert sorted(p.name for p in target.glob("[!.]*")) == [
        *("dev", "not_converted.csv")
    ]


@needs_ffmpeg
def test_only_what_is_missing_is_converted(corpus, tmp_path):
    target = tmp_path / "made"
    convert_corpus(corpus, target)
    one, *others = sorted(target.rglob("*.wav"))
    held = one.read_bytes()
    one.unlink()
    one.with_name(".speechbrain_ext-99999999-0.wav").write_text("half")
    times = [path.stat().st_mtime_ns for path in others]
    found = convert_corpus(corpus, target, workers=1)
    assert found == {"converted": 1, "there": 3, "failed": 0}
    assert one.read_bytes() == held
    assert times == [path.stat().st_mtime_ns for path in others]
    assert not list(target.rglob(".speechbrain_ext-*-*"))


@needs_ffmpeg
def test_broken_files_are_left_out_and_told_once(corpus, tmp_path, caplog):
    whole = (corpus / "dev/aac/id0/s/0.m4a").read_bytes()
    (corpus / "dev/aac/id0/s/8.m4a").write_bytes(whole[:2000])
    (corpus / "dev/aac/id0/s/9.M4A").write_text("no sound")
    target = tmp_path / "made"
    with pytest.raises(ValueError, match="2 of 6 files .* 0.01"):
        convert_corpus(corpus, target)
    assert len([r for r in caplog.records if "8.m4a" in r.message]) == 1
    found = convert_corpus(corpus, target, max_unreadable=0.4)
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
        convert_corpus(corpus, tmp_path, max_unreadable=1.5)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds nothing to convert"):
        convert_corpus(tmp_path / "none", tmp_path)
    (corpus / "dev/aac/id0/s/0.mp3").touch()
    with pytest.raises(ValueError, match="0.m.. and .* would both become"):
        convert_corpus(corpus, tmp_path)


FAKE = """\
#!{python}
import os, sys
rates = [int(sys.argv[i + 1]) for i, a in enumerate(sys.argv) if a == "-ar"]
pipes = [int(a[5:]) for a in sys.argv if a.startswith("pipe:")]
for rate, pipe in zip(rates, pipes, strict=True):
    os.write(pipe, bytes(range(250)) * (2 * rate // 250))
"""


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """A program that gives a second of sound at the rate it is asked for."""
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)


def test_files_have_the_rate_that_is_asked_for(
    tmp_path, fake_ffmpeg, recipe_folder, capsys
):
    from convert_audio import main

    source, target = tmp_path / "source" / "id1" / "s", tmp_path / "made"
    source.mkdir(parents=True)
    for number in range(3):
        (source / f"{number}.m4a").touch()
    command = [str(tmp_path / "source"), str(target), "--workers=1"]
    assert main([*command, "--sample_rate=8000"]) == 0
    for path in target.rglob("*.wav"):
        found = soundfile.info(path)
        assert (found.samplerate, found.frames) == (8000, 8000)
    (target / "id1" / "s" / "1.wav").unlink()
    assert main(command) == 1  # 16,000 beside 8,000 would go unnoticed
    said = capsys.readouterr().err
    assert "0.wav has 8000 samples per second" in said and "16000" in said
    assert not (target / "id1" / "s" / "1.wav").exists()
    assert main([*command, "--sample_rate=8000"]) == 0
    assert main([*command, "--sample_rate=0"]) == 1
    assert "768000 samples per second, got 0" in capsys.readouterr().err


def test_links_that_lead_back_are_not_followed(tmp_path):
    for speaker in ("id1", "id2"):
        (tmp_path / "in" / speaker / "s").mkdir(parents=True)
        (tmp_path / "in" / speaker / "s" / "1.m4a").write_bytes(b"")
    for name, goal in (("a", "."), ("b", "."), ("id1/c", "../../in/id1")):
        (tmp_path / "in" / name).symlink_to(goal)
    (tmp_path / "in" / "id3").symlink_to(tmp_path / "in" / "id1")
    found, _ = _pairs(str(tmp_path / "in"), str(tmp_path / "out"), "wav")
    results = [os.path.relpath(made, tmp_path / "out") for _, made in found]
    assert results == ["id1/s/1.wav", "id2/s/1.wav", "id3/s/1.wav"]


def test_files_that_need_no_conversion_are_found(tmp_path):
    for name in ("1.m4a", "2.WAV", "3.flac", "1.wav", ".ogg", "4.txt"):
        (tmp_path / name).touch()
    for name in ("._1.m4a", "._2.WAV"):  # of macOS, without audio
        (tmp_path / name).touch()
    found, ready = _pairs(str(tmp_path), str(tmp_path), "wav")
    assert [made for _, made in found] == [str(tmp_path / "1.wav")]
    # 1.wav is the result of an earlier run in the same folder
    assert ready == {str(tmp_path / "2.WAV"), str(tmp_path / "3.flac")}


@needs_ffmpeg
def test_files_that_are_not_copied_are_told(corpus, tmp_path, caplog):
    soundfile.write(corpus / "dev/aac/id0/s/7.wav", np.zeros(160), 16000)
    convert_corpus(corpus, tmp_path / "made")
    assert "1 files below" in caplog.text and "7.wav" in caplog.text
    assert f"--data_folder={corpus},{tmp_path / 'made'}" in caplog.text


def test_a_machine_without_ffmpeg_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install ffmpeg"):
        convert_corpus(tmp_path, tmp_path)


SLOW = """#!/bin/sh
echo x >> "$COUNT"
sleep 0.5
exit 1
"""


def test_an_interrupt_ends_it_soon(tmp_path, recipe_folder):
    (tmp_path / "in" / "id1" / "s").mkdir(parents=True)
    for number in range(40):
        (tmp_path / "in" / "id1" / "s" / f"{number}.m4a").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").write_text(SLOW)
    (tmp_path / "bin" / "ffmpeg").chmod(0o755)
    count = tmp_path / "count"
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    run = subprocess.Popen(
        [
            sys.executable,
            recipe_folder / "convert_audio.py",
            tmp_path / "in",
            tmp_path / "out",
        ],
        env=os.environ | {"PATH": path, "COUNT": str(count)},
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts background jobs with SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not count.exists():
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=100)
    assert run.returncode == 130 and "the same command goes on" in said
    assert "Traceback" not in said
    assert len(count.read_text().split()) < 10
