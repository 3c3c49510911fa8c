"""Front ends: filterbanks, spectrograms and their normalisation."""

import math

import torch
from speechbrain.utils.autocast import fwd_default_precision
from torchaudio.compliance.kaldi import get_mel_banks
from torchaudio.transforms import MelSpectrogram

from speechbrain_ext.lobes.kaldi_frames import (
    centred,
    noise_like,
    power_spectra,
    precise,
    reflect_ends,
)
from speechbrain_ext.nnet.lengths import (
    frame_counts,
    is_traced,
    keep_framing,
    mask_frames,
    note_framing,
)

EPSILON = torch.finfo(torch.float32).eps
IN_CACHE = 2**17  # samples whose frames stay in the cache of a processor
WINDOWS = {
    "hamming": lambda size: torch.hamming_window(size, periodic=False),
    "povey": lambda size: torch.hann_window(size, periodic=False) ** 0.85,
}


class KaldiFbank(torch.nn.Module):
    """Kaldi's log mel filterbanks of a batch of waveforms.

    The result equals torchaudio.compliance.kaldi.fbank(wav * 2**15, ...) of
    each utterance, with Kaldi's other defaults: 25 ms frames every 10 ms,
    pre-emphasis 0.97, mean of the frame removed. It is always computed in
    float32 or better. sherpa-onnx computes ``window="povey"``,
    ``high_freq=-400`` and ``snip_edges=False``.

    Dither is added to the waveform only in training mode, like dropout. Its
    noise depends on ``seeds`` (one per utterance), not on the batch or the
    number of workers. Kaldi draws new noise for each of the overlapping
    frames; within a frame the distribution is the same.

    ``noise_floor`` adds no noise but its mean energy, in training and after
    it. Digital silence then looks like the rounding noise that it has in
    another file format.

    Arguments
    ---------
    n_mels : int
        Number of filters, at least 4.
    use_energy : bool
        Whether to put the log energy of each frame before the filters.
    window : str
        ``hamming`` (WeSpeaker's) or ``povey`` (Kaldi's default).
    dither : float
        Standard deviation of the noise, in units of a 16-bit sample.
    sample_rate : int
        Sample rate, Hz.
    low_freq : float
        Lower edge of the first filter, Hz.
    high_freq : float
        Upper edge of the last filter, Hz; 0 or less is added to the Nyquist
        frequency.
    snip_edges : bool
        Whether only whole frames count. If not, there is a frame for every
        10 ms, and the waveform is reflected at its ends. In a padded batch,
        the last frames of a shorter utterance then include padding instead
        of the reflection.
    noise_floor : float
        Standard deviation of the white noise whose mean energy is added to
        each filter, in units of a 16-bit sample.

    Raises
    ------
    ValueError
        If an argument is outside its range, or the waveforms are shorter
        than one frame.

    Example
    -------
    >>> fbank = KaldiFbank(n_mels=80)
    >>> fbank(torch.rand(2, 32000) - 0.5).shape
    torch.Size([2, 198, 80])
    """

    def __init__(
        self,
        n_mels=80,
        use_energy=False,
        window="hamming",
        dither=0.0,
        sample_rate=16000,
        low_freq=20.0,
        high_freq=0.0,
        snip_edges=True,
        noise_floor=0.0,
    ):
        super().__init__()
        if n_mels < 4:
            raise ValueError(f"`n_mels` must be at least 4, got {n_mels}.")
        if window not in WINDOWS:
            raise ValueError(
                f"`window` must be one of {sorted(WINDOWS)}, got {window!r}."
            )
        for name, value in (("dither", dither), ("noise_floor", noise_floor)):
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"`{name}` must be finite and at least 0, got {value}."
                )
        if sample_rate < 1000:
            raise ValueError(
                f"`sample_rate` must be at least 1000 Hz, got {sample_rate}."
            )
        nyquist = sample_rate / 2
        upper = high_freq if high_freq > 0 else nyquist + high_freq
        if not 0 <= low_freq < upper <= nyquist:
            raise ValueError(
                "`low_freq` and `high_freq` must be in order between 0 and "
                f"{nyquist:g} Hz, half the sample rate, got {low_freq:g} and "
                f"{high_freq:g}."
            )
        self.use_energy = use_energy
        self.dither = dither
        self.noise_floor = noise_floor
        self.snip_edges = snip_edges
        self.window_size = int(sample_rate * 0.025)
        self.shift = int(sample_rate * 0.010)
        self.least = self.window_size  # samples for one frame
        if not snip_edges:
            self.least = self.shift - self.shift // 2
        self.fft_size = 2 ** math.ceil(math.log2(self.window_size))
        edges = (sample_rate, low_freq, high_freq, 100.0, -500.0, 1.0)
        # on the CPU if small: on the meta device torch imports its compiler
        small = n_mels * self.fft_size < 2**20
        device = torch.get_default_device()
        with torch.device("cpu") if small else device:
            filters = get_mel_banks(n_mels, self.fft_size, *edges)[0]
            # the filters lack the bin of the Nyquist frequency
            filters = torch.nn.functional.pad(filters.float(), (0, 1)).T
            taper = WINDOWS[window](self.window_size)
        self.register_buffer("filters", filters.to(device), persistent=False)
        self.register_buffer("taper", taper.to(device), persistent=False)
        self.register_buffer("floor", None, persistent=False)
        if noise_floor:  # of a frame of noise each sample adds its own energy
            samples = centred(torch.eye(self.window_size).unsqueeze(0))
            power = power_spectra(samples, self.taper, self.fft_size)
            self.floor = noise_floor**2 * (power.sum(dim=1) @ self.filters)[0]

    @fwd_default_precision
    def forward(self, wavs, seeds=None):
        """Computes the filterbanks.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms of shape [batch, time], samples in [-1, 1].
        seeds : list of int
            One seed per utterance for the dither. Without seeds, torch's
            global generator is used.

        Returns
        -------
        torch.Tensor
            Features of shape [batch, time, channel]: ``n_mels`` channels,
            after the energy if ``use_energy``.
        """
        samples = wavs.shape[-1]
        if wavs.dim() != 2 or samples < self.window_size:
            raise ValueError(
                "`wavs` must have shape [batch, time] with at least "
                f"{self.window_size} samples (one frame of 25 ms), "
                f"got {list(wavs.shape)}."
            )
        wavs = precise(wavs, self.filters) * 2**15
        if self.training and self.dither > 0:
            wavs = wavs + self.dither * noise_like(wavs, seeds)
        cached = wavs.device.type == "cpu" and not is_traced()
        parts = wavs.split(max(1, IN_CACHE // samples)) if cached else [wavs]
        features = torch.cat([self._features(part) for part in parts])
        return note_framing(features, samples, self.least, self.shift)

    def _features(self, wavs):
        """The filterbanks of samples on Kaldi's scale."""
        if not self.snip_edges:
            wavs = reflect_ends(wavs, self.window_size, self.shift)
        frames = centred(wavs.unfold(1, self.window_size, self.shift))
        power = power_spectra(frames, self.taper, self.fft_size)
        features = power @ self.filters.to(power.dtype)
        if self.floor is not None:
            features = features + self.floor
        features = features.clamp(min=EPSILON).log()
        if not self.use_energy:
            return features
        energy = frames.square().sum(dim=2, keepdim=True)
        if self.noise_floor:
            energy = energy + self.noise_floor**2 * (self.window_size - 1)
        # Kaldi's floor of the energy is 1, so its logarithm is at least 0
        return torch.cat([energy.clamp(min=1.0).log(), features], dim=2)


class LogMelSpectrogram(torch.nn.Module):
    """The log mel filterbanks of Clova's trainer.

    25 ms frames every 10 ms of a waveform that is reflected at its ends, 512
    bins, power, HTK mel filters from 0 to the Nyquist frequency, log(x +
    1e-6). Reference code: clovaai/voxceleb_trainer@f51bab8 models/*.py, whose
    samples are in [-1, 1]. Until April 2021 (@9ae2041) it read 16-bit integers:
    ``full_scale=32768``, for which 1e-6 is negligible. In a padded batch, the
    last two frames of a shorter utterance include padding, not the reflection.

    Arguments
    ---------
    n_mels : int
        Number of filters.
    window : str
        ``hamming`` (the ResNets) or ``hann`` (VGG), both periodic.
    pre_emphasis : float
        Coefficient of x_t - pre_emphasis * x_(t - 1); 0 for no pre-emphasis.
        ResNetSE34V2 uses 0.97.
    sample_rate : int
        Sample rate, Hz.
    full_scale : float
        Positive factor of the samples.

    Raises
    ------
    ValueError
        If an argument is outside its range, or the waveforms are shorter
        than half a window.

    Example
    -------
    >>> LogMelSpectrogram(n_mels=40)(torch.rand(2, 32000) - 0.5).shape
    torch.Size([2, 201, 40])
    """

    def __init__(
        self,
        n_mels=40,
        window="hamming",
        pre_emphasis=0.0,
        sample_rate=16000,
        full_scale=1.0,
    ):
        super().__init__()
        windows = {"hamming": torch.hamming_window, "hann": torch.hann_window}
        if window not in windows:
            raise ValueError(
                f"`window` must be one of {sorted(windows)}, got {window!r}."
            )
        if not 0 <= pre_emphasis < 1:
            raise ValueError(
                f"`pre_emphasis` must be in [0, 1), got {pre_emphasis}."
            )
        _check_clova(sample_rate, full_scale)
        self.pre_emphasis = pre_emphasis
        self.full_scale = full_scale
        self.shift = int(sample_rate * 0.010)
        self.spectrogram = MelSpectrogram(
            sample_rate=sample_rate,
            n_fft=512,
            win_length=int(sample_rate * 0.025),
            hop_length=self.shift,
            window_fn=windows[window],
            n_mels=n_mels,
        )

    @fwd_default_precision
    def forward(self, wavs):
        """Computes the filterbanks.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms of shape [batch, time], samples in [-1, 1].

        Returns
        -------
        torch.Tensor
            Features of shape [batch, time, channel].
        """
        samples = wavs.shape[-1]
        if wavs.dim() != 2 or samples <= 256:
            raise ValueError(
                "`wavs` must have shape [batch, time] with more than 256 "
                f"samples (half a window), got {list(wavs.shape)}."
            )
        wavs = self.full_scale * precise(wavs, self.spectrogram.mel_scale.fb)
        if self.pre_emphasis:
            # reflection: the second sample comes before the first
            before = torch.cat([wavs[:, 1:2], wavs[:, :-1]], dim=1)
            wavs = wavs - self.pre_emphasis * before
        features = (self.spectrogram(wavs) + 1e-6).log().transpose(1, 2)
        return note_framing(features, samples, 0, self.shift)


class MagnitudeSpectrogram(torch.nn.Module):
    """The spectrogram of 257 bins for Thin ResNet34.

    25 ms frames (Hann) every 10 ms, edges snipped, magnitudes of 512 points.
    Reference code: clovaai/voxceleb_trainer@8d03f1b models/ResNetSE.py, whose
    samples are 16-bit integers. The ``SentenceMeanVarNorm`` after it adds 1e-5
    to the variance, which is negligible for integers. With samples in [-1, 1],
    quiet bins would not reach a variance of 1.

    Arguments
    ---------
    sample_rate : int
        Sample rate, Hz.
    full_scale : float
        Positive factor of the samples; the default makes 16-bit integers.

    Raises
    ------
    ValueError
        If an argument is outside its range, or there are under 512 samples.

    Example
    -------
    >>> MagnitudeSpectrogram()(torch.rand(2, 32000) - 0.5).shape
    torch.Size([2, 197, 257])
    """

    def __init__(self, sample_rate=16000, full_scale=2.0**15):
        super().__init__()
        _check_clova(sample_rate, full_scale)
        self.full_scale = full_scale
        self.shift = int(sample_rate * 0.010)
        window = torch.hann_window(int(sample_rate * 0.025))
        self.register_buffer("window", window, persistent=False)

    @fwd_default_precision
    def forward(self, wavs):
        """Computes the spectrogram.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms of shape [batch, time], samples in [-1, 1].

        Returns
        -------
        torch.Tensor
            Features of shape [batch, time, channel].
        """
        samples = wavs.shape[-1]
        if wavs.dim() != 2 or samples < 512:
            raise ValueError(
                "`wavs` must have shape [batch, time] with at least 512 "
                f"samples (one frame), got {list(wavs.shape)}."
            )
        spectrum = torch.stft(
            self.full_scale * precise(wavs, self.window),
            n_fft=512,
            hop_length=self.shift,
            win_length=len(self.window),
            window=self.window,
            center=False,
            return_complex=True,
        )
        features = spectrum.abs().transpose(1, 2)
        return note_framing(features, samples, 512, self.shift)


def _check_clova(sample_rate, full_scale):
    if not 1000 <= sample_rate <= 20480:  # of which 25 ms are 512 samples
        raise ValueError(
            "`sample_rate` must be in [1000, 20480] Hz for this front end, "
            f"got {sample_rate}; or use KaldiFbank."
        )
    if not full_scale > 0:
        raise ValueError(f"`full_scale` must be positive, got {full_scale}.")


class SentenceMeanNorm(torch.nn.Module):
    """Subtracts the mean over time of each utterance (CMN).

    Padded frames do not count and become zero.

    Example
    -------
    >>> features = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> SentenceMeanNorm()(features, torch.tensor([2 / 3])).squeeze()
    tensor([-1.,  1.,  0.])
    """

    @fwd_default_precision
    def forward(self, x, lengths=None):
        """Normalises features.

        Arguments
        ---------
        x : torch.Tensor
            Features of shape [batch, time, channel].
        lengths : torch.Tensor
            Relative lengths of shape [batch], or None.

        Returns
        -------
        torch.Tensor
            Features of shape [batch, time, channel].
        """
        frames = frame_counts(x, lengths)
        if frames is None:
            return keep_framing(x - x.mean(dim=1, keepdim=True), x)
        inside = mask_frames(x.transpose(1, 2), frames)
        mean = inside.sum(dim=2) / frames.unsqueeze(1)
        normalised = mask_frames(inside - mean.unsqueeze(2), frames, 0.0, True)
        return keep_framing(normalised.transpose(1, 2), x)


class SentenceMeanVarNorm(torch.nn.Module):
    """Mean 0 and variance 1 over time of each channel (instance norm).

    Like torch.nn.InstanceNorm1d, it uses the biased variance plus 1e-5. Padded
    frames do not count and become zero.

    Example
    -------
    >>> features = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> SentenceMeanVarNorm()(features, torch.tensor([2 / 3])).squeeze()
    tensor([-1.0000,  1.0000,  0.0000])
    """

    @fwd_default_precision
    def forward(self, x, lengths=None):
        """Normalises features.

        Arguments
        ---------
        x : torch.Tensor
            Features of shape [batch, time, channel].
        lengths : torch.Tensor
            Relative lengths of shape [batch], or None.

        Returns
        -------
        torch.Tensor
            Features of shape [batch, time, channel].
        """
        centred = SentenceMeanNorm()(x, lengths)
        frames = frame_counts(x, lengths)
        count = x.shape[1] if frames is None else frames[:, None, None]
        variance = centred.square().sum(dim=1, keepdim=True) / count
        return keep_framing(centred / (variance + 1e-5).sqrt(), x)
