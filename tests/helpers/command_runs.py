"""Calls of ``speechbrain-ext`` in this process, and a folder that decides."""

import json

import numpy as np
import soundfile
import torch

from speechbrain_ext.cli.main import main
from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.processing.back_end import BackEnd
from speechbrain_ext.processing.calibration import (
    Calibration,
    save_calibrations,
)
from speechbrain_ext.processing.cohort_file import save_cohort


def run(capsys, *argv):
    """Exit code, standard output and standard error of a call."""
    capsys.readouterr()
    code = main(argv)
    return code, *capsys.readouterr()


def answer(capsys, *argv):
    """Exit code and JSON of a call."""
    code, said, _ = run(capsys, *argv, "--json")
    (line,) = said.splitlines()
    values = json.loads(line)
    assert values["exit_code"] == code
    return code, values


def refusal(capsys, *argv):
    """The sentence of a call that ends with an error."""
    code, out, said = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert "Traceback" not in said
    return said


def add_calibrations(folder):
    """Adds calibrations and a cohort; returns the back end."""
    fitted = {
        "cosine": Calibration([10.0], -5.0, ["cosine"]),
        "asnorm": Calibration([2.0], -1.0, ["asnorm"]),
    }
    back_end = BackEnd(torch.randn(20, 8), [str(i) for i in range(20)], 10)
    save_calibrations(folder / "calibration.json", fitted)
    fingerprint = model_fingerprint(folder)
    save_cohort(folder / "normalization.npz", back_end, fingerprint)
    return back_end


def unusable(folder):
    """Files that cannot be used, and words of the reason."""
    speech = np.random.default_rng(0).normal(0, 0.1, 16000)
    nan = speech.copy()
    nan[5000] = np.nan
    made = {
        "nan.wav": (nan, "FLOAT", "not finite"),
        "silence.wav": (np.zeros(16000), "PCM_16", "silence"),
        "short.wav": (speech[:800], "PCM_16", "0.050 s of sound"),
        "nothing.wav": (speech[:0], "PCM_16", "no samples"),
    }
    for name, (samples, kind, words) in made.items():
        soundfile.write(folder / name, samples, 16000, kind)
        yield folder / name, words
    (folder / "text.wav").write_text("no audio" * 1000)
    yield folder / "text.wav", "cannot be used"
    soundfile.write(folder / "cut.wav", speech, 16000)
    whole = (folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[:5000])
    yield folder / "cut.wav", "cannot be used"
