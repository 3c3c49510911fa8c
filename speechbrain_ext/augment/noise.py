"""Noise and reverberation on the fly, from folders of recordings."""

import pathlib

import numpy as np
import soundfile
import torch
from scipy.signal import fftconvolve

from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.dataio.corpus import EXTENSIONS
from speechbrain_ext.dataio.crops import wrap

# Signal-to-noise ratios of MUSAN's kinds in dB, that of speech for each voice
# of a babble; and how many voices make a babble. As Clova and Kaldi have them
SNR = {"noise": (0.0, 15.0), "music": (5.0, 15.0), "speech": (13.0, 20.0)}
BABBLE = (3, 7)


class NoiseAndReverberation:
    """Adds a noise to a signal, or the sound of a room, or nothing.

    With ``probability`` a signal is changed: reverberated or mixed with
    noise, half and half where both folders are given. A noise is a random
    piece of a random file; its kind, and so its signal-to-noise ratio, is
    told by the folder that it lies in (``noise``, ``music`` or ``speech``, as
    MUSAN unpacks; ``noise`` for any other). Speech comes as babble: several
    speeches at once, each with a ratio of its own. Reverberation convolves
    with an impulse response of energy 1 and keeps the length. Reference code:
    wespeaker@dfa7419 wespeaker/dataset/processor.py, add_reverb_noise, and for
    ratios and babble voxceleb_trainer@f51bab8 DatasetLoader.py, AugmentWAV
    (WeSpeaker adds one speech, at 10 to 30 dB). Differences: ratios are exact
    (there 1e-4 is added to both powers), the peak is not set to 1, and all
    that is drawn comes from a seed.

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
    snr : dict
        Lowest and highest signal-to-noise ratio in dB of ``noise``, ``music``
        and ``speech``; what is not given is as in ``SNR``.
    babble : tuple
        Fewest and most speeches of a babble; (1, 1) for single speeches.

    Raises
    ------
    ValueError
        If a folder is missing or holds no audio, or a probability, ratio or
        number of voices is outside its range.

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
        snr=None,
        babble=BABBLE,
    ):
        self.snr = {**SNR, **(snr or {})}
        for kind, (low, high) in self.snr.items():
            if kind not in SNR or not low <= high:
                raise ValueError(
                    "`snr` must give lowest and highest dB of "
                    f"{', '.join(SNR)}, got {kind}: [{low}, {high}]."
                )
        if not 1 <= babble[0] <= babble[1]:
            raise ValueError(
                "`babble` must be the fewest and the most voices, at least 1, "
                f"got {list(babble)}."
            )
        self.babble = babble
        if not 0 <= probability <= 1:
            raise ValueError(
                f"`probability` must be in [0, 1], got {probability}."
            )
        self.probability = probability
        self.sample_rate = sample_rate
        self.noises = _listed(noise_folder, "noise_folder")
        self.speeches = [p for p in self.noises if _kind(p) == "speech"]
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
        kind, paths = _kind(path), [path]
        if kind == "speech":
            voices = int(rng.integers(self.babble[0], self.babble[1] + 1))
            others = rng.permutation(len(self.speeches))
            others = [self.speeches[i] for i in others]
            paths += [each for each in others if each != path][: voices - 1]
        mixed = signal
        for each in paths:
            noise = self._piece(each, len(signal), rng)
            ratio = 10 ** (rng.uniform(*self.snr[kind]) / 10)
            loud, quiet = signal.square().mean(), noise.square().mean()
            if quiet > 0:
                mixed = mixed + noise * (loud / quiet / ratio).sqrt()
        return mixed

    def _piece(self, path, samples, rng):
        """A random piece of a noise, repeated where the noise is short."""
        header = soundfile.info(path)
        wanted = -(-samples * header.samplerate // self.sample_rate)
        start = 0
        if header.frames > wanted:
            start = int(rng.integers(header.frames - wanted + 1))
        stop = min(start + wanted, header.frames)
        noise = read_audio(path, start, stop, sample_rate=self.sample_rate)
        return wrap(noise, samples)


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
