"""Noise and reverberation on the fly, from folders of recordings."""

import pathlib

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.signal import fftconvolve
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.dataio.audio_headers import read_headers
from speechbrain_ext.dataio.corpus import EXTENSIONS
from speechbrain_ext.dataio.crops import wrap

logger = get_logger(__name__)

# Signal-to-noise ratios of MUSAN's kinds in dB, that of speech for each voice
# of a babble; and how many voices make a babble. As Clova and Kaldi have them
SNR = {"noise": (0.0, 15.0), "music": (5.0, 15.0), "speech": (13.0, 20.0)}
BABBLE = (3, 7)


class NoiseAndReverberation:
    """Adds a noise to a signal, or the sound of a room, or nothing.

    With ``probability`` a signal is changed: reverberated or mixed with
    noise. A noise is a random piece of a random file; its kind, and so its
    signal-to-noise ratio, is told by the folder that it lies in (``noise``,
    ``music`` or ``speech``, as MUSAN unpacks; ``noise`` for any other). Speech
    comes as babble: several speeches at once, each with a ratio of its own.
    Reverberation convolves with an impulse response of energy 1 and keeps the
    length.

    The defaults are those of Clova's trainer but for ``draw_by``
    (voxceleb_trainer@f51bab8 DatasetLoader.py, AugmentWAV). WeSpeaker
    (wespeaker@dfa7419 wespeaker/dataset/processor.py, add_reverb_noise) adds
    one speech at 10 to 30 dB: ``babble=(1, 1), snr={"speech": (10, 30)}``.
    Differences to both: ratios are exact (there 1e-4 is added to both
    powers), the peak is not set to 1 (WeSpeaker does this), and all that is
    drawn comes from a seed.

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
    in_batches : bool
        Whether ``apply`` shall change whole batches on the device of the
        training; None where that is a GPU. What is drawn is the same.
    draw_by : str
        ``folder``: noises or rooms, half and half where both folders are
        given, then any file of the folder (WeSpeaker). ``kind``: rooms, noise,
        music or speech, each as often, then a file of that kind (Clova).

    Raises
    ------
    ValueError
        If a folder is missing or holds no audio, or another argument is
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
        snr=None,
        babble=BABBLE,
        in_batches=None,
        draw_by="folder",
    ):
        self.in_batches = in_batches
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
        self.noises, self.headers = _readable(
            _listed(noise_folder, "noise_folder")
        )
        by_kind = {
            kind: [path for path in self.noises if _kind(path) == kind]
            for kind in SNR
        }
        self.speeches = by_kind["speech"]
        self.responses = _listed(rir_folder, "rir_folder")
        noises = [self.noises] if draw_by == "folder" else by_kind.values()
        self.choices = [each for each in (*noises, self.responses) if each]

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
        noise, response = self.draw(len(signal), seed)
        if noise is not None:
            signal = signal + signal.square().mean().sqrt() * noise
        if response is not None:
            # torch's transform depends on its threads: a worker has one
            found = fftconvolve(signal.numpy(), response.numpy())
            found = found[: len(signal)].astype(np.float32)
            signal = torch.from_numpy(found)
        return signal

    def draw(self, samples, seed):
        """Draws and reads what a signal is to be changed by.

        Arguments
        ---------
        samples : int
            Samples of the signal.
        seed : int
            Seed of all draws.

        Returns
        -------
        noise : torch.Tensor
            What is added to a signal of power 1, [samples], or None.
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
        """Changes a batch on its device, by what was drawn for each signal.

        It is what a call does to each signal, but for rounding.

        Arguments
        ---------
        signals : torch.Tensor
            Shape [batch, time], zero after the end of each.
        lengths : torch.Tensor
            Length of each, a share of the time. [batch]
        noises : torch.Tensor
            Shape [batch, time]; zeros for no noise.
        responses : torch.Tensor
            Shape [batch, taps]; zeros for none.

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
        kind, paths = _kind(path), [path]
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
        """A random piece of a noise, repeated where the noise is short."""
        frames, rate = self.headers[path]
        wanted = -(-samples * rate // self.sample_rate)
        start = 0
        if frames > wanted:
            start = int(rng.integers(frames - wanted + 1))
        stop = min(start + wanted, frames)
        noise = read_audio(path, start, stop, sample_rate=self.sample_rate)
        return wrap(noise, samples)


def _kind(path):
    """The kind of a noise by the folder that it lies in."""
    parents = {part.name for part in pathlib.Path(path).parents}
    return next((kind for kind in SNR if kind in parents), "noise")


def _readable(paths):
    """Those of the noises that can be read, and their frames and rates."""
    headers = {}
    for path, (frames, rate, _, reason) in zip(
        paths, read_headers(paths), strict=True
    ):
        if reason:
            logger.warning("The noise %s is left out: %s", path, reason)
        else:
            headers[path] = frames, rate
    if paths and not headers:
        raise ValueError(
            f"`noise_folder` must hold audio that can be read; {paths[0]} and "
            "all others cannot."
        )
    return list(headers), headers


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
