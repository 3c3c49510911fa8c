"""Noise and reverberation on the fly, from folders of recordings."""

import pathlib

import numpy as np
import soundfile
import torch
from scipy.signal import fftconvolve

from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.dataio.corpus import EXTENSIONS
from speechbrain_ext.dataio.crops import wrap

# Signal-to-noise ratios of MUSAN's kinds in dB, as WeSpeaker draws them
SNR = {"noise": (0.0, 15.0), "music": (5.0, 15.0), "speech": (10.0, 30.0)}


class NoiseAndReverberation:
    """Adds a noise to a signal, or the sound of a room, or nothing.

    With ``probability`` a signal is changed: reverberated or mixed with
    noise, half and half where both folders are given. A noise is a random
    piece of a random file; its kind, and so its signal-to-noise ratio, is
    told by the folder that it lies in (``noise``, ``music`` or ``speech``, as
    MUSAN unpacks; ``noise`` for any other). Reverberation convolves with an
    impulse response of energy 1 and keeps the length. Reference code:
    wespeaker@dfa7419 wespeaker/dataset/processor.py, add_reverb_noise.
    Differences: ratios are exact (there 1e-4 is added to both powers), the
    peak is not set to 1, and all that is drawn comes from a seed.

    Arguments
    ---------
    noise_folder : str
        Folder of noises (MUSAN), or None.
    rir_folder : str
        Folder of impulse responses (RIRS_NOISES/simulated_rirs), or None.
    probability : float
        How often a signal is changed, in [0, 1].
    sample_rate : int
        Samples a second of the signals.

    Raises
    ------
    ValueError
        If a folder is missing or holds no audio, or the probability is
        outside its range.

    Example
    -------
    >>> import torch
    >>> augment = NoiseAndReverberation()
    >>> augment(torch.ones(4), seed=1)  # no folder, nothing to add
    tensor([1., 1., 1., 1.])
    """

    def __init__(
        self,
        noise_folder=None,
        rir_folder=None,
        probability=0.6,
        sample_rate=16000,
    ):
        if not 0 <= probability <= 1:
            raise ValueError(
                f"`probability` must be in [0, 1], got {probability}."
            )
        self.probability = probability
        self.sample_rate = sample_rate
        self.noises = _listed(noise_folder, "noise_folder")
        self.responses = _listed(rir_folder, "rir_folder")

    def __call__(self, signal, seed):
        """Changes a signal, or not.

        Arguments
        ---------
        signal : torch.Tensor
            Shape [time].
        seed : int
            Seed of all draws.

        Returns
        -------
        torch.Tensor
            Shape [time].
        """
        rng = np.random.default_rng(seed)
        kinds = [kind for kind in (self.noises, self.responses) if kind]
        if not kinds or rng.random() >= self.probability:
            return signal
        files = kinds[rng.integers(len(kinds))]
        path = files[rng.integers(len(files))]
        if files is self.responses:
            return self._reverberated(signal, path)
        return self._mixed(signal, path, rng)

    def _reverberated(self, signal, path):
        response = read_audio(path, sample_rate=self.sample_rate)
        energy = response.square().sum().sqrt()
        if not energy > 0:
            return signal
        # torch's transform depends on its threads, of which a worker has one
        found = fftconvolve(signal.numpy(), (response / energy).numpy())
        return torch.from_numpy(found[: len(signal)].astype(np.float32))

    def _mixed(self, signal, path, rng):
        header = soundfile.info(path)
        wanted = -(-len(signal) * header.samplerate // self.sample_rate)
        start = 0
        if header.frames > wanted:
            start = int(rng.integers(header.frames - wanted + 1))
        stop = min(start + wanted, header.frames)
        noise = read_audio(path, start, stop, sample_rate=self.sample_rate)
        noise = wrap(noise, len(signal))
        low, high = SNR[_kind(path)]
        ratio = 10 ** (rng.uniform(low, high) / 10)
        loud, quiet = signal.square().mean(), noise.square().mean()
        if not quiet > 0:
            return signal
        return signal + noise * (loud / quiet / ratio).sqrt()


def _kind(path):
    """The kind of a noise by the folder that it lies in."""
    parents = {part.name for part in pathlib.Path(path).parents}
    return next((kind for kind in SNR if kind in parents), "noise")


def _listed(folder, name):
    """The audio files of a folder, sorted; none for None."""
    if folder is None:
        return []
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"`{name}` must be a folder, got {folder}.")
    files = sorted(
        str(path)
        for path in folder.rglob("*")
        if path.suffix[1:].lower() in EXTENSIONS
    )
    if not files:
        raise ValueError(
            f"`{name}` must hold audio ({', '.join(sorted(EXTENSIONS))}), but "
            f"{folder} has none."
        )
    return files
