"""On-the-fly noise and reverberation from folders of recordings."""

import numbers
import pathlib

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.signal import fftconvolve
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.dataio.audio_files import files_below
from speechbrain_ext.dataio.audio_headers import read_headers
from speechbrain_ext.dataio.corpus import EXTENSIONS
from speechbrain_ext.dataio.crops import wrap

logger = get_logger(__name__)

# Signal-to-noise ratios in dB of each kind of MUSAN noise (speech: of each
# voice in a babble), and the number of voices in a babble, as in Clova and
# Kaldi
SNR = {"noise": (0.0, 15.0), "music": (5.0, 15.0), "speech": (13.0, 20.0)}
BABBLE = (3, 7)


class NoiseAndReverberation:
    """Adds noise or reverberation to a signal, with a probability.

    Noise is a random piece of a random file. Its kind, which sets its
    signal-to-noise ratio, is the name of its nearest folder that is called
    ``noise``, ``music`` or ``speech``, as in MUSAN; the noise folder itself is
    the last that counts. Other files are ``noise``. Speech is added as babble:
    several voices at once, each with its own ratio. Reverberation convolves
    the signal with an impulse response of energy 1 and keeps its length.

    The defaults, except ``draw_by``, are those of Clova's trainer
    (voxceleb_trainer@f51bab8 DatasetLoader.py, AugmentWAV). WeSpeaker
    (wespeaker@dfa7419 wespeaker/dataset/processor.py, add_reverb_noise) adds
    one voice at 10 to 30 dB: ``babble=(1, 1), snr={"speech": (10, 30)}``.
    Differences to both: the ratios are exact (both references add 1e-4 to the
    powers), the peak is not scaled to 1 (WeSpeaker does this), and all random
    draws depend on a seed.

    Arguments
    ---------
    noise_folder : str
        Folder of noises (MUSAN), or None.
    rir_folder : str
        Folder of impulse responses (RIRS_NOISES/simulated_rirs), or None.
    probability : float
        Probability that a signal is changed, in [0, 1].
    sample_rate : int
        Sample rate of the signals, Hz.
    snr : dict
        Lowest and highest signal-to-noise ratio in dB of ``noise``, ``music``
        and ``speech``; missing ones default to ``SNR``.
    babble : tuple
        Lowest and highest number of voices; (1, 1) for single voices.
    in_batches : bool
        Whether the training should call ``apply`` on whole batches on its
        device. None for only on a GPU. The random draws are the same.
    draw_by : str
        ``folder`` (WeSpeaker): choose noises or rooms with equal probability
        if both folders are given, then a file of the folder. ``kind``
        (Clova): choose rooms, noise, music or speech with equal probability,
        then a file of this kind.

    Raises
    ------
    ValueError
        If a folder is missing or has no audio, or another argument is outside
        its range.

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
        in_batches=None,
        draw_by="folder",
    ):
        self.in_batches = in_batches
        self.snr = {**SNR, **(snr or {})}
        for kind, bounds in self.snr.items():
            if kind not in SNR or not _is_range(bounds, numbers.Real):
                raise ValueError(
                    "`snr` must have the lowest and highest dB for "
                    f"{', '.join(SNR)}, such as [0, 15], got {kind}: {bounds}."
                )
        if not _is_range(babble, numbers.Integral) or babble[0] < 1:
            raise ValueError(
                "`babble` must be the lowest and highest number of voices, at "
                f"least 1, such as [3, 7], got {babble}."
            )
        self.babble = babble
        if draw_by not in ("folder", "kind"):
            raise ValueError(
                f"`draw_by` must be 'folder' or 'kind', got {draw_by!r}."
            )
        if not 0 <= probability <= 1:
            raise ValueError(
                f"`probability` must be in [0, 1], got {probability}."
            )
        self.probability = probability
        self.sample_rate = sample_rate
        self.noises, self.headers = _readable(noise_folder, "noise_folder")
        self.kinds = {path: _kind(path, noise_folder) for path in self.noises}
        by_kind = {
            kind: [path for path in self.noises if self.kinds[path] == kind]
            for kind in SNR
        }
        self.speeches = by_kind["speech"]
        self.responses, _ = _readable(rir_folder, "rir_folder")
        noises = [self.noises] if draw_by == "folder" else by_kind.values()
        self.choices = [each for each in (*noises, self.responses) if each]

    def __call__(self, signal, seed):
        """Changes a signal with the given probability.

        Arguments
        ---------
        signal : torch.Tensor
            Shape [time].
        seed : int
            Seed of all random draws.

        Returns
        -------
        torch.Tensor
            Shape [time].
        """
        noise, response = self.draw(len(signal), seed)
        if noise is not None:
            signal = signal + signal.square().mean().sqrt() * noise
        if response is not None:
            # torch's FFT depends on the number of threads: one in a worker
            found = fftconvolve(signal.numpy(), response.numpy())
            found = found[: len(signal)].astype(np.float32)
            signal = torch.from_numpy(found)
        return signal

    def draw(self, samples, seed):
        """Draws and reads the noise or the impulse response of a signal.

        Arguments
        ---------
        samples : int
            Samples of the signal.
        seed : int
            Seed of all random draws.

        Returns
        -------
        noise : torch.Tensor
            Noise for a signal of power 1, [samples], or None.
        response : torch.Tensor
            Impulse response of energy 1, [taps], or None.
        """
        rng = np.random.default_rng(seed)
        if not self.choices or rng.random() >= self.probability:
            return None, None
        files = self.choices[rng.integers(len(self.choices))]
        path = files[rng.integers(len(files))]
        if files is not self.responses:
            return self._noise(path, samples, rng), None
        response = read_audio(path, sample_rate=self.sample_rate)
        energy = response.square().sum().sqrt()
        return None, response / energy if energy > 0 else None

    def apply(self, signals, lengths, noises, responses):
        """Applies the results of ``draw`` to a batch, on its device.

        The result equals a call for each signal, up to rounding.

        Arguments
        ---------
        signals : torch.Tensor
            Shape [batch, time], zero-padded.
        lengths : torch.Tensor
            Relative length of each signal, [batch].
        noises : torch.Tensor
            Shape [batch, time]; zeros for no noise.
        responses : torch.Tensor
            Shape [batch, taps]; zeros for no reverberation.

        Returns
        -------
        torch.Tensor
            Shape [batch, time].

        Example
        -------
        >>> augment = NoiseAndReverberation()
        >>> one, none = torch.ones(1, 4), torch.zeros(1, 4)
        >>> augment.apply(one, torch.ones(1), 0.5 * one, none)
        tensor([[1.5000, 1.5000, 1.5000, 1.5000]])
        """
        time = signals.shape[1]
        samples = (lengths * time).round()
        power = signals.square().sum(dim=1) / samples
        signals = signals + power.sqrt()[:, None] * noises
        size = next_fast_len(time + responses.shape[1] - 1, real=True)
        spectra = torch.fft.rfft(signals, size) * torch.fft.rfft(
            responses, size
        )
        echoes = torch.fft.irfft(spectra, size)[:, :time]
        inside = torch.arange(time, device=signals.device) < samples[:, None]
        some = responses.any(dim=1)[:, None]
        return torch.where(some, echoes * inside, signals)

    def _noise(self, path, samples, rng):
        kind, paths = self.kinds[path], [path]
        if kind == "speech":
            voices = int(rng.integers(self.babble[0], self.babble[1] + 1))
            others = rng.permutation(len(self.speeches))
            others = [self.speeches[i] for i in others]
            paths += [each for each in others if each != path][: voices - 1]
        mixed = torch.zeros(samples)
        for each in paths:
            noise = self._piece(each, samples, rng)
            ratio = 10 ** (rng.uniform(*self.snr[kind]) / 10)
            power = noise.square().mean()
            if power > 0:
                mixed += noise / (power * ratio).sqrt()
        return mixed

    def _piece(self, path, samples, rng):
        """A random piece of a noise, repeated if the noise is too short."""
        frames, rate = self.headers[path]
        wanted = -(-samples * rate // self.sample_rate)
        start = 0
        if frames > wanted:
            start = int(rng.integers(frames - wanted + 1))
        stop = min(start + wanted, frames)
        noise = read_audio(path, start, stop, sample_rate=self.sample_rate)
        return wrap(noise, samples)


def _is_range(bounds, number):
    """Whether a value is a lowest and a highest number."""
    pair = isinstance(bounds, (list, tuple)) and len(bounds) == 2
    right = pair and all(isinstance(bound, number) for bound in bounds)
    return right and bounds[0] <= bounds[1]


def _kind(path, folder):
    """The kind of a noise, from the names of its folders.

    What is above the noise folder has nothing to do with its kinds:
    ``/data/noise/musan`` holds music and speech too.
    """
    folder = pathlib.Path(folder)
    inside = pathlib.Path(path).relative_to(folder).parts[:-1]
    names = [folder.absolute().name, *inside]
    return next((name for name in reversed(names) if name in SNR), "noise")


def _readable(folder, name):
    """The files that can be read, with their frames and sample rates."""
    paths, headers = _listed(folder, name), {}
    for path, (frames, rate, _, reason) in zip(
        paths, read_headers(paths), strict=True
    ):
        if reason:
            logger.warning("%s of `%s` is skipped: %s", path, name, reason)
        else:
            headers[path] = frames, rate
    if paths and not headers:
        raise ValueError(
            f"`{name}` must have audio that can be read, but {paths[0]} and "
            "all other files cannot be read."
        )
    return list(headers), headers


def _listed(folder, name):
    """The sorted audio files of a folder; an empty list for None."""
    if folder is None:
        return []
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"`{name}` must be a folder, got {folder}.")
    files = sorted(
        str(folder / name)
        for name, _ in files_below(folder)
        if name.rpartition(".")[2].lower() in EXTENSIONS
    )
    if not files:
        raise ValueError(
            f"`{name}` must have audio files "
            f"({', '.join(sorted(EXTENSIONS))}), but {folder} has none."
        )
    return files
