"""Synthetic voices: a glottal source, a vocal tract, a room and a channel.

Jittered glottal pulses and noise are filtered by a moving vocal tract (Klatt,
"Software for a cascade/parallel formant synthesizer", JASA 1980), then by the
room and the channel of the session. Results on such voices say nothing about
real speakers.
"""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter
from scipy.signal.windows import hann

FRAME = 0.008  # seconds from one filter to the next

# F1 to F3 of men in Hz: Peterson and Barney, JASA 1952, Table II.
VOWELS = (
    (270, 2290, 3010), (390, 1990, 2550), (530, 1840, 2480), (660, 1720, 2410),
    (730, 1090, 2440), (570, 840, 2410), (440, 1020, 2240), (300, 870, 2240),
    (640, 1190, 2390), (490, 1350, 1690),
)  # fmt: skip
# Resonances of the tract above F3, Hz.
UPPER_FORMANTS = (3500, 4500, 5500, 6500, 7500, 8500, 9500)
# Duration of the closure (only stops have one) and of the consonant, seconds;
# F1, F2, F3 (Hz); gains of voice, aspiration and frication; centre of the
# frication (Hz); nasal zero divided by the nasal pole (1: not nasal).
CONSONANTS = (
    (0.00, 0.070, 250, 1000, 2200, 0.50, 0.00, 0.00, 4000, 3.2),  # m
    (0.00, 0.060, 250, 1500, 2500, 0.50, 0.00, 0.00, 4000, 5.5),  # n
    (0.00, 0.070, 250, 1900, 2600, 0.50, 0.00, 0.00, 4000, 9.0),  # ng
    (0.00, 0.060, 350, 1100, 2700, 0.70, 0.00, 0.00, 4000, 1.0),  # l
    (0.00, 0.070, 400, 1200, 1600, 0.70, 0.00, 0.00, 4000, 1.0),  # r
    (0.00, 0.060, 300, 700, 2200, 0.70, 0.00, 0.00, 4000, 1.0),  # w
    (0.00, 0.060, 280, 2200, 2900, 0.70, 0.00, 0.00, 4000, 1.0),  # y
    (0.00, 0.110, 350, 1700, 2600, 0.00, 0.05, 0.20, 6000, 1.0),  # s
    (0.00, 0.110, 350, 1800, 2500, 0.00, 0.05, 0.20, 3200, 1.0),  # sh
    (0.00, 0.090, 350, 1100, 2300, 0.00, 0.03, 0.05, 7000, 1.0),  # f
    (0.00, 0.080, 300, 1700, 2600, 0.40, 0.00, 0.10, 5800, 1.0),  # z
    (0.00, 0.060, 300, 1100, 2300, 0.50, 0.00, 0.03, 6500, 1.0),  # v
    (0.00, 0.060, 500, 1500, 2500, 0.05, 0.25, 0.00, 4000, 1.0),  # h
    (0.06, 0.016, 350, 900, 2200, 0.00, 0.15, 0.20, 1200, 1.0),  # p
    (0.06, 0.024, 350, 1750, 2600, 0.00, 0.15, 0.20, 4500, 1.0),  # t
    (0.06, 0.032, 350, 2000, 2400, 0.00, 0.15, 0.20, 2200, 1.0),  # k
    (0.06, 0.008, 350, 900, 2200, 0.30, 0.15, 0.20, 1200, 1.0),  # b
    (0.06, 0.008, 350, 1750, 2600, 0.30, 0.15, 0.20, 4500, 1.0),  # d
    (0.06, 0.016, 350, 2000, 2400, 0.30, 0.15, 0.20, 2200, 1.0),  # g
)
# Like a consonant, without the closure.
PAUSE = (0.1, 500, 1500, 2500, 0.0, 0.0, 0.0, 4000, 1.0)


def generator(seed, *key):
    """A random generator that depends only on the seed and the key.

    Arguments
    ---------
    seed : int
        Seed of the corpus.
    *key : tuple of int
        Numbers of the speaker, the session and the utterance.

    Returns
    -------
    numpy.random.Generator
        A new generator.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def draw_voice(rng):
    """Draws the properties of a speaker: larynx, vocal tract and habits.

    Arguments
    ---------
    rng : numpy.random.Generator
        The speaker's generator.

    Returns
    -------
    dict
        Numbers by name, for ``speak``.
    """
    high = rng.random() < 0.5
    size = rng.normal()  # of the body: a short tract has a high pitch
    count = 3 + len(UPPER_FORMANTS)
    octave = np.log2(200 if high else 115) + 0.1 * size
    scale = (1.15 if high else 1.0) * np.exp(0.06 * size)
    widths = (70, 90, 130, 200, 260, 320, 380, 440, 500, 560)
    return {
        "octave": octave + rng.normal(0, 0.2),
        "pitch_range": rng.uniform(0.06, 0.22),
        "formants": scale * np.exp(rng.normal(0, 0.06, count)),
        "accent": np.exp(rng.normal(0, 0.06, (len(VOWELS), 3))),
        "widths": np.array(widths) * np.exp(rng.normal(0, 0.3, count)),
        "nose": 270 * np.exp(rng.normal(0, 0.18)),
        "nose_zero": np.exp(rng.normal(0, 0.18)),
        "hiss": scale**0.5 * np.exp(rng.normal(0, 0.12)),
        "open": rng.uniform(0.45, 0.75),
        "skew": rng.uniform(0.6, 0.8),
        "tilt": rng.uniform(0.0, 0.6),
        "jitter": rng.uniform(0.003, 0.02),
        "shimmer": rng.uniform(0.02, 0.12),
        "breath": rng.uniform(0.02, 0.25),
        "tempo": rng.uniform(0.8, 1.25),
    }


def draw_session(rng, sample_rate):
    """Draws the properties of a session: mood, room, microphone and level.

    Arguments
    ---------
    rng : numpy.random.Generator
        The session's generator.
    sample_rate : int
        Sample rate, Hz.

    Returns
    -------
    dict
        Numbers by name, for ``speak`` and ``record``.
    """
    length = int(rng.uniform(0.15, 0.6) * sample_rate)  # until -60 dB
    decay = 10.0 ** (-3 * np.arange(length) / length)
    tail = rng.normal(size=length) * decay
    ratio = 10 ** (-rng.uniform(2, 17) / 20)
    room = ratio * tail / np.sqrt(np.sum(tail**2))
    room[0] += 1.0
    return {
        "octave": rng.normal(0, 0.06),
        "effort": rng.normal(0, 0.1),
        "tempo": np.exp(rng.normal(0, 0.1)),
        "room": room,
        "channel": rng.normal(0, 2.5, 9),  # dB at nine frequencies
        "low": rng.uniform(40, 250),
        "high": rng.uniform(4500, 8000),
        "noise": 10 ** (-rng.uniform(15, 35) / 20),
        "colour": rng.uniform(0.0, 0.95),
        "peak": rng.uniform(0.1, 0.9),
    }


def _consonant(rng):
    """The segments of a random consonant; a stop has a closure first."""
    closure, *row = CONSONANTS[rng.integers(len(CONSONANTS))]
    silence = (closure, 250, *row[2:4], row[4] / 2, 0.0, 0.0, *row[7:])
    return [silence, tuple(row)] if closure else [tuple(row)]


def _draw_segments(rng, voice, frames, tempo):
    """Random syllables: segment of each frame [frames, 8], accent [frames]."""
    rows, accents, left = [PAUSE], [0.0], frames * FRAME * tempo
    while left > 0:
        new = _consonant(rng) if rng.random() < 0.85 else []
        vowel = rng.integers(len(VOWELS))
        formants = np.array(VOWELS[vowel]) * voice["accent"][vowel]
        seconds, gain = rng.uniform(0.07, 0.2), rng.uniform(0.7, 1.0)
        new.append((seconds, *formants, gain, 0.0, 0.0, 4000, 1.0))
        new += _consonant(rng) if rng.random() < 0.3 else []
        new += [PAUSE] if rng.random() < 0.07 else []
        rows += new
        accents += [rng.normal()] * len(new)
        left -= sum(row[0] for row in new)
    rows = np.array([*rows, PAUSE])
    lasting = rows[:, 0] * rng.uniform(0.8, 1.25, len(rows))
    ends = np.cumsum(lasting) / np.sum(lasting) * frames
    index = np.searchsorted(ends, np.arange(frames) + 0.5)
    return rows[index, 1:], np.array([*accents, 0.0])[index]


def _smooth(track, frames):
    """A Gaussian mean over frames: articulators move smoothly."""
    return gaussian_filter1d(track, frames, axis=0, mode="nearest")


def _draw_pitch(rng, voice, session, accents):
    """Pitch in Hz [frames]: it declines over time and rises on accents."""
    slope = np.linspace(0.5, -0.5, len(accents)) * rng.uniform(0, 0.3)
    octave = voice["octave"] + session["octave"] + rng.normal(0, 0.04)
    return 2 ** (octave + slope + voice["pitch_range"] * _smooth(accents, 4))


def _glottal_source(rng, voice, session, pitch, sample_rate):
    """Glottal pulses (Rosenberg, JASA 1971) with breath, RMS 1 [time]."""
    hop = round(FRAME * sample_rate)
    time = np.arange(len(pitch) * hop)
    phase = np.cumsum(np.interp(time / hop, np.arange(len(pitch)), pitch))
    phase /= sample_rate
    cycles = np.arange(int(phase[-1]) + 3)
    marks = cycles + voice["jitter"] * rng.normal(size=len(cycles))
    cycle, place = np.divmod(np.interp(phase, marks, cycles), 1.0)
    rise = voice["open"] * voice["skew"]
    fall = voice["open"] - rise
    flow = np.where(
        place < rise,
        0.5 - 0.5 * np.cos(np.pi * place / rise),
        np.cos(np.pi / 2 * np.clip((place - rise) / fall, 0.0, 1.0)),
    )
    shimmer = 1 + voice["shimmer"] * rng.normal(size=len(cycles))
    flow *= shimmer[cycle.astype(int)]
    tilt = np.clip(voice["tilt"] + session["effort"], 0.0, 0.8)
    source = lfilter([1 - tilt, tilt - 1], [1, -tilt], flow)
    source /= np.sqrt(np.mean(source**2))
    return source + voice["breath"] * flow * rng.normal(size=len(flow))


def _resonance(delay, centre, width, sample_rate):
    """The denominator of a two-pole resonance, 1 at 0 Hz [frames, bins]."""
    radius = np.exp(-np.pi * width / sample_rate)
    first = -2 * radius * np.cos(2 * np.pi * centre / sample_rate)
    second = np.broadcast_to(radius**2, np.shape(first))
    gain = 1 / (1 + first + second)
    first, second, gain = (
        np.reshape(value, (-1, 1)).astype(np.float32)
        for value in (first * gain, second * gain, gain)
    )
    return gain + delay * (first + delay * second)


def _spectra(source, hop, size):
    """Spectra of overlapping windows that sum to 1 [frames, bins]."""
    window = hann(2 * hop, sym=False)
    cut = np.lib.stride_tricks.sliding_window_view(
        np.pad(source, (hop, 0)), 2 * hop
    )[::hop]
    return rfft((cut * window).astype(np.float32), size)


def _tract(voice, formants, nose, delay, sample_rate):
    """Response from the glottis to lips and nostrils [frames, bins]."""
    # The nasal zero cancels the nasal pole unless the velum is open.
    zero = voice["nose"] * (1 + (nose - 1) * voice["nose_zero"])
    response = _resonance(delay, zero, 80, sample_rate)
    response /= _resonance(delay, voice["nose"], 80, sample_rate)
    highest = 0.47 * sample_rate
    for number, base in enumerate((*formants.T, *UPPER_FORMANTS)):
        centre = base * voice["formants"][number]
        # Above it, aliasing or clipping would cause a whistle.
        if np.min(centre) < highest:
            centre = np.minimum(centre, highest)
            width = voice["widths"][number]
            response /= _resonance(delay, centre, width, sample_rate)
    return response


def speak(rng, voice, session, frames, sample_rate):
    """Synthesises one utterance without room and microphone.

    Arguments
    ---------
    rng : numpy.random.Generator
        The utterance's generator.
    voice : dict
        Result of ``draw_voice``.
    session : dict
        Result of ``draw_session``.
    frames : int
        Length, in frames of ``FRAME`` seconds.
    sample_rate : int
        Sample rate, Hz.

    Returns
    -------
    numpy.ndarray
        The signal, with any level, [time].
    """
    tempo = voice["tempo"] * session["tempo"] * np.exp(rng.normal(0, 0.05))
    rows, accents = _draw_segments(rng, voice, frames, tempo)
    pitch = _draw_pitch(rng, voice, session, accents)
    formants, gains = _smooth(rows[:, :3], 1.8), _smooth(rows[:, 3:6], 0.7)
    hiss, nose = _smooth(rows[:, 6], 0.7), _smooth(rows[:, 7], 1.0)

    hop = round(FRAME * sample_rate)
    size = 6 * hop  # a window of two hops and a decay of four
    delay = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    delay = delay.astype(np.complex64)
    voiced = _glottal_source(rng, voice, session, pitch, sample_rate)
    noise = _spectra(rng.normal(size=len(voiced)), hop, size)
    gains = gains.astype(np.float32)[:, :, None]  # [frames, sources, 1]
    speech = gains[:, 0] * _spectra(voiced, hop, size) + gains[:, 1] * noise
    speech *= _tract(voice, formants, nose, delay, sample_rate)
    hiss = np.minimum(hiss * voice["hiss"], 0.45 * sample_rate)
    mouth = (1 - delay) / _resonance(delay, hiss, 1500, sample_rate)
    speech += gains[:, 2] * noise * mouth

    pieces = irfft(speech, size).reshape(frames, 6, hop)
    added = np.zeros((frames + 5, hop))
    for shift in range(6):
        added[shift : shift + frames] += pieces[:, shift]
    return added.ravel()[hop : hop * (frames + 1)]


def record(rng, speech, session, sample_rate):
    """Adds the room, the noise and the microphone of the session to speech.

    Arguments
    ---------
    rng : numpy.random.Generator
        The utterance's generator.
    speech : numpy.ndarray
        Result of ``speak``, [time].
    session : dict
        Result of ``draw_session``.
    sample_rate : int
        Sample rate, Hz.

    Returns
    -------
    numpy.ndarray
        16-bit samples, [time].
    """
    count, room = len(speech), session["room"]
    size = next_fast_len(count + len(room), real=True)
    noise = lfilter([1], [1, -session["colour"]], rng.normal(size=count))
    noise *= session["noise"] * np.std(speech) / np.std(noise)
    spectrum = rfft(speech, size) * rfft(room, size) + rfft(noise, size)
    hertz = rfftfreq(size, 1 / sample_rate)
    corners = np.linspace(0, 1, len(session["channel"]))
    place = np.log1p(hertz / 700) / np.log1p(sample_rate / 1400)  # mel
    gain = 10 ** (np.interp(place, corners, session["channel"]) / 20)
    gain *= 1 - 1 / (1 + (hertz / session["low"]) ** 2)
    gain /= np.sqrt(1 + (hertz / session["high"]) ** 8)
    signal = irfft(spectrum * gain, size)[:count]
    signal *= session["peak"] / np.max(np.abs(signal))
    return np.round(32767 * signal).astype(np.int16)
