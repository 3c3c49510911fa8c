"""Steps of Kaldi's filterbanks: precision, dither, frames, power spectra.

Reference code: torchaudio.compliance.kaldi.
"""

import torch

PRE_EMPHASIS = 0.97


def precise(wavs, own):
    """Waveforms in the type of a front end's tensor, in float32 or better.

    Powers of 16-bit samples do not fit into float16. Features get the type of
    the front end, which is that of the network after it.

    Arguments
    ---------
    wavs : torch.Tensor
        Waveforms of any floating type.
    own : torch.Tensor
        A tensor of the front end.

    Returns
    -------
    torch.Tensor
        The waveforms, of the same shape.

    Raises
    ------
    ValueError
        If the waveforms are integers.

    Example
    -------
    >>> precise(torch.zeros(1, 2, dtype=torch.float16), torch.ones(1)).dtype
    torch.float32
    """
    if not wavs.is_floating_point():
        raise ValueError(
            "`wavs` must be of a floating type with samples in [-1, 1], got "
            f"{wavs.dtype}; divide 16-bit integers by 32768."
        )
    return wavs.to(torch.promote_types(own.dtype, torch.float32))


def noise_like(wavs, seeds=None):
    """White noise, each row from its own seed.

    Arguments
    ---------
    wavs : torch.Tensor
        Waveforms of shape [batch, time].
    seeds : list of int
        One seed per waveform; None for torch's global generator.

    Returns
    -------
    torch.Tensor
        Noise of standard deviation 1, shape [batch, time].

    Raises
    ------
    ValueError
        If the number of seeds is not that of the waveforms.

    Example
    -------
    >>> noise = noise_like(torch.zeros(2, 5), seeds=[7, 7])
    >>> torch.equal(noise[0], noise[1])
    True
    """
    if seeds is None:
        return torch.randn_like(wavs)
    if len(seeds) != len(wavs):
        raise ValueError(
            f"`seeds` must have one seed per utterance ({len(wavs)}), got "
            f"{len(seeds)}."
        )
    noise = torch.empty_like(wavs)
    generator = torch.Generator(device=wavs.device)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=generator.manual_seed(int(seed)))
    return noise


def reflect_ends(wavs, window_size, shift):
    """Adds reflections to both ends, so that each shift begins a frame.

    Arguments
    ---------
    wavs : torch.Tensor
        Waveforms of shape [batch, time].
    window_size : int
        Samples of a frame.
    shift : int
        Samples from one frame to the next.

    Returns
    -------
    torch.Tensor
        Longer waveforms, shape [batch, time].

    Example
    -------
    >>> reflect_ends(torch.arange(6.0).unsqueeze(0), 4, 2)
    tensor([[0., 0., 1., 2., 3., 4., 5., 5., 4.]])
    """
    before = window_size // 2 - shift // 2
    after = window_size - before - (shift - shift // 2)
    ends = wavs[:, :before].flip(1), wavs[:, -after:].flip(1)
    return torch.cat([ends[0], wavs, ends[1]], dim=1)


def centred(frames):
    """Frames without their mean.

    Arguments
    ---------
    frames : torch.Tensor
        Frames of shape [batch, time, window].

    Returns
    -------
    torch.Tensor
        Frames of the same shape.

    Example
    -------
    >>> centred(torch.tensor([[[1.0, 3.0]]]))
    tensor([[[-1.,  1.]]])
    """
    return frames - frames.mean(dim=2, keepdim=True)


def power_spectra(frames, taper, fft_size):
    """Power spectra of frames, after pre-emphasis and a window.

    Arguments
    ---------
    frames : torch.Tensor
        Frames of shape [batch, time, window].
    taper : torch.Tensor
        The window, shape [window].
    fft_size : int
        Number of points of the Fourier transform.

    Returns
    -------
    torch.Tensor
        Powers of shape [batch, time, fft_size / 2 + 1].

    Example
    -------
    >>> power_spectra(torch.ones(1, 2, 4), torch.ones(4), 4).shape
    torch.Size([1, 2, 3])
    """
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
    # in place: new memory takes a processor longer than the arithmetic
    tapered = before.mul_(-PRE_EMPHASIS).add_(frames).mul_(taper)
    spectrum = torch.fft.rfft(tapered, n=fft_size)
    return spectrum.real.square().add_(spectrum.imag.square())
