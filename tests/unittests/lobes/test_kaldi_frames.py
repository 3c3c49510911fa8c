"""Steps of the filterbanks against plain loops."""

import numpy as np
import torch

from speechbrain_ext.lobes.kaldi_frames import (
    centred,
    power_spectra,
    reflect_ends,
)


def test_power_spectra_are_those_of_a_loop():
    generator = np.random.default_rng(1)
    frames = generator.standard_normal((2, 3, 10))
    taper = generator.random(10)
    found = power_spectra(
        centred(torch.tensor(frames)), torch.tensor(taper), 16
    )
    for row, column in np.ndindex(2, 3):
        frame = frames[row, column] - frames[row, column].mean()
        emphasised = [frame[n] - 0.97 * frame[max(n - 1, 0)] for n in range(10)]
        angles = np.outer(np.arange(9), np.arange(10)) * 2j * np.pi / 16
        spectrum = np.exp(-angles) @ (taper * emphasised)
        np.testing.assert_allclose(
            found[row, column], np.abs(spectrum) ** 2, rtol=1e-10
        )


def test_each_shift_begins_a_frame():
    for samples in (400, 480, 559, 1600):
        wavs = reflect_ends(torch.rand(1, samples), 400, 160)
        frames = wavs.unfold(1, 400, 160)
        assert frames.shape[1] == (samples + 80) // 160
