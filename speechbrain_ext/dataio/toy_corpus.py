"""A corpus of made-up voices in the shape of VoxCeleb, for a first run without a download.

Every voice is synthetic: jittered glottal pulses through a moving tract of
eight formants (source and filter after Klatt, "Software for a
cascade/parallel formant synthesizer", JASA 1980), then a room and a channel
per session. It serves to try a recipe out: no figure measured on it says
anything about real speakers.

    python -m speechbrain_ext.dataio.toy_corpus FOLDER [--train_speakers 40 ...]
"""

import argparse
import concurrent.futures
import functools
import inspect
import json
import math
import os
import pathlib
import shutil
import uuid

import numpy as np
import scipy.fft
import scipy.signal
import soundfile
from scipy.ndimage import convolve1d

from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

TRIALS = pathlib.Path("meta", "veri_toy.txt")
MARKER = "toy_corpus.json"
# Raised whenever the same options come to give other samples.
VERSION = 1
FIRST_TRAIN, FIRST_TEST = 10001, 20001
FRAME = 0.008  # seconds from one filter to the next
# Lowest, highest and why, or what to do.
LIMITS = {
    "train_speakers": (1, 9999, "their ids are id10001 to id19999"),
    "test_speakers": (2, 999, "a nontarget pair needs two of them"),
    "sessions": (2, 99, "a target pair needs two sessions of a speaker"),
    "utterances": (1, 99, "pass the utterances of one session"),
    "trials": (2, 10**6, "pass an even number"),
    "seed": (0, 2**63 - 1, "pass another number"),
    "sample_rate": (8000, 48000, "pass samples per second, as 16000"),
    "workers": (1, 1024, "pass None for one per CPU"),
}

# F1 to F3 in Hz: men of Peterson and Barney, JASA 1952, Table II.
VOWELS = (
    (270, 2290, 3010), (390, 1990, 2550), (530, 1840, 2480), (660, 1720, 2410),
    (730, 1090, 2440), (570, 840, 2410), (440, 1020, 2240), (300, 870, 2240),
    (640, 1190, 2390), (490, 1350, 1690),
)  # fmt: skip
# Resonances of the tract above F3, Hz.
UPPER_FORMANTS = (3500, 4500, 5500, 6500, 7500, 8500, 9500)
# A consonant is a row of segments: seconds, F1, F2, F3 (Hz), the gains of
# voice, aspiration and frication, centre of the frication (Hz) and zero of
# the nose over its pole (1: no nasality).
CONSONANTS = (
    ((0.07, 250, 1000, 2200, 0.5, 0.0, 0.0, 4000, 3.2),),  # m
    ((0.06, 250, 1500, 2500, 0.5, 0.0, 0.0, 4000, 5.5),),  # n
    ((0.07, 250, 1900, 2600, 0.5, 0.0, 0.0, 4000, 9.0),),  # ng
    ((0.06, 350, 1100, 2700, 0.7, 0.0, 0.0, 4000, 1.0),),  # l
    ((0.07, 400, 1200, 1600, 0.7, 0.0, 0.0, 4000, 1.0),),  # r
    ((0.06, 300, 700, 2200, 0.7, 0.0, 0.0, 4000, 1.0),),  # w
    ((0.06, 280, 2200, 2900, 0.7, 0.0, 0.0, 4000, 1.0),),  # y
    ((0.11, 350, 1700, 2600, 0.0, 0.05, 0.2, 6000, 1.0),),  # s
    ((0.11, 350, 1800, 2500, 0.0, 0.05, 0.2, 3200, 1.0),),  # sh
    ((0.09, 350, 1100, 2300, 0.0, 0.03, 0.05, 7000, 1.0),),  # f
    ((0.08, 300, 1700, 2600, 0.4, 0.0, 0.1, 5800, 1.0),),  # z
    ((0.06, 300, 1100, 2300, 0.5, 0.0, 0.03, 6500, 1.0),),  # v
    ((0.06, 500, 1500, 2500, 0.05, 0.25, 0.0, 4000, 1.0),),  # h
)  # fmt: skip
# A stop closes, then bursts: F2, F3, centre of the burst, voicing, seconds.
for _f2, _f3, _centre, _voicing, _seconds in (
    (900, 2200, 1200, 0.0, 0.016),  # p
    (1750, 2600, 4500, 0.0, 0.024),  # t
    (2000, 2400, 2200, 0.0, 0.032),  # k
    (900, 2200, 1200, 0.15, 0.008),  # b
    (1750, 2600, 4500, 0.15, 0.008),  # d
    (2000, 2400, 2200, 0.15, 0.016),  # g
):
    CONSONANTS += (
        (
            (0.06, 250, _f2, _f3, _voicing, 0.0, 0.0, _centre, 1.0),
            (_seconds, 350, _f2, _f3, 2 * _voicing, 0.15, 0.2, _centre, 1.0),
        ),
    )
PAUSE = (0.1, 500, 1500, 2500, 0.0, 0.0, 0.0, 4000, 1.0)


def _generator(seed, *key):
    """The random numbers of a speaker, a session or an utterance, whatever came before."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _draw_voice(rng):
    """What stays with a speaker: larynx, tract and habits."""
    high = rng.random() < 0.5
    size = rng.normal()  # one body: a short tract goes with a high pitch
    count = 3 + len(UPPER_FORMANTS)
    scale = (1.15 if high else 1.0) * np.exp(0.06 * size)
    widths = (70, 90, 130, 200, 260, 320, 380, 440, 500, 560)
    return {
        "octave": np.log2(200 if high else 115)
        + 0.1 * size
        + rng.normal(0, 0.2),
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


def _draw_session(rng, sample_rate):
    """What stays with a recording: mood, room, microphone and level."""
    length = int(rng.uniform(0.15, 0.6) * sample_rate)  # 60 dB down
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
        "channel": rng.normal(0, 2.5, 9),  # dB at nine corners
        "low": rng.uniform(40, 250),
        "high": rng.uniform(4500, 8000),
        "noise": 10 ** (-rng.uniform(15, 35) / 20),
        "colour": rng.uniform(0.0, 0.95),
        "peak": rng.uniform(0.1, 0.9),
    }


def _draw_segments(rng, voice, frames, tempo):
    """Random syllables as one row of `CONSONANTS` per frame, and the accent of each frame [frames]."""
    rows, syllable, left = [PAUSE], [0.0], frames * FRAME * tempo
    while left > 0:
        onset = rng.integers(len(CONSONANTS)) if rng.random() < 0.85 else None
        coda = rng.integers(len(CONSONANTS)) if rng.random() < 0.3 else None
        vowel = rng.integers(len(VOWELS))
        formants = np.array(VOWELS[vowel]) * voice["accent"][vowel]
        seconds, gain = rng.uniform(0.07, 0.2), rng.uniform(0.7, 1.0)
        new = list(CONSONANTS[onset]) if onset is not None else []
        new.append((seconds, *formants, gain, 0.0, 0.0, 4000, 1.0))
        new += list(CONSONANTS[coda]) if coda is not None else []
        new += [PAUSE] if rng.random() < 0.07 else []
        rows += new
        syllable += [rng.normal()] * len(new)
        left -= sum(row[0] for row in new)
    rows.append(PAUSE)
    syllable.append(0.0)
    rows = np.array(rows, dtype=float)
    lasting = rows[:, 0] * rng.uniform(0.8, 1.25, len(rows))
    ends = np.cumsum(lasting) / np.sum(lasting) * frames
    index = np.searchsorted(ends, np.arange(frames) + 0.5)
    return rows[index, 1:], np.array(syllable)[index]


def _smooth(track, frames):
    """A moving Hann mean over [frames, ...], as a tongue is no switch."""
    window = np.hanning(frames + 2)[1:-1]
    return convolve1d(track, window / window.sum(), axis=0, mode="nearest")


def _draw_pitch(rng, voice, session, syllable):
    """Pitch in Hz of each frame [frames]: it declines, and rises on accents."""
    slope = np.linspace(0.5, -0.5, len(syllable)) * rng.uniform(0, 0.3)
    octave = voice["octave"] + session["octave"] + rng.normal(0, 0.04)
    return 2 ** (octave + slope + voice["pitch_range"] * _smooth(syllable, 21))


def _glottal_source(rng, voice, session, pitch, sample_rate):
    """Pulses after Rosenberg (JASA 1971) with breath in them, RMS 1 [time]."""
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
    flow *= (
        1 + voice["shimmer"] * rng.normal(size=len(cycles))[cycle.astype(int)]
    )
    tilt = np.clip(voice["tilt"] + session["effort"], 0.0, 0.8)
    source = scipy.signal.lfilter([1 - tilt, tilt - 1], [1, -tilt], flow)
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
    """Windows of two hops, one a frame, that add up to one [frames, bins]."""
    window = scipy.signal.windows.hann(2 * hop, sym=False)
    cut = np.lib.stride_tricks.sliding_window_view(
        np.pad(source, (hop, 0)), 2 * hop
    )[::hop]
    return scipy.fft.rfft((cut * window).astype(np.float32), size)


def _tract(voice, formants, nose, delay, sample_rate):
    """From the glottis to the lips and nostrils [frames, bins]."""
    # The zero of the nose cancels its pole unless the velum is down.
    zero = voice["nose"] * np.maximum(nose * voice["nose_zero"], 1.0)
    zero = np.where(nose > 1.0, zero, voice["nose"])
    response = _resonance(delay, zero, 80, sample_rate)
    response /= _resonance(delay, voice["nose"], 80, sample_rate)
    highest = 0.47 * sample_rate
    for number, base in enumerate((*formants.T, *UPPER_FORMANTS)):
        centre = base * voice["formants"][number]
        # Folded back or held at the edge, it would whistle there.
        if np.min(centre) < highest:
            centre = np.minimum(centre, highest)
            width = voice["widths"][number]
            response /= _resonance(delay, centre, width, sample_rate)
    return response


def _speak(rng, voice, session, frames, sample_rate):
    """Dry speech of one utterance [time]."""
    tempo = voice["tempo"] * session["tempo"] * np.exp(rng.normal(0, 0.05))
    rows, syllable = _draw_segments(rng, voice, frames, tempo)
    pitch = _draw_pitch(rng, voice, session, syllable)
    formants, gains = _smooth(rows[:, :3], 9), _smooth(rows[:, 3:6], 3)
    hiss, nose = _smooth(rows[:, 6], 3), _smooth(rows[:, 7], 5)

    hop = round(FRAME * sample_rate)
    size = 6 * hop  # room for a window of two hops and a decay of four
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

    pieces = scipy.fft.irfft(speech, size).reshape(frames, 6, hop)
    added = np.zeros((frames + 5, hop))
    for shift in range(6):
        added[shift : shift + frames] += pieces[:, shift]
    return added.ravel()[hop : hop * (frames + 1)]


def _record(rng, speech, session, sample_rate):
    """The speech in its room and through its microphone, 16 bits [time]."""
    size = scipy.fft.next_fast_len(
        len(speech) + len(session["room"]), real=True
    )
    noise = scipy.signal.lfilter(
        [1], [1, -session["colour"]], rng.normal(size=len(speech))
    )
    noise *= session["noise"] * np.std(speech) / np.std(noise)
    spectrum = scipy.fft.rfft(speech, size) * scipy.fft.rfft(
        session["room"], size
    )
    spectrum += scipy.fft.rfft(noise, size)
    hertz = scipy.fft.rfftfreq(size, 1 / sample_rate)
    corners = np.linspace(0, 1, len(session["channel"]))
    place = np.log1p(hertz / 700) / np.log1p(sample_rate / 1400)  # mel
    gain = 10 ** (np.interp(place, corners, session["channel"]) / 20)
    gain *= (hertz / session["low"]) ** 2 / (1 + (hertz / session["low"]) ** 2)
    gain /= np.sqrt(1 + (hertz / session["high"]) ** 8)
    signal = scipy.fft.irfft(spectrum * gain, size)[: len(speech)]
    signal *= session["peak"] / np.max(np.abs(signal))
    return np.round(32767 * signal).astype(np.int16)


def _write_speaker(folder, options, speaker):
    """Every session of one speaker; the seconds of audio written."""
    seed, sample_rate = options["seed"], options["sample_rate"]
    voice, samples = _draw_voice(_generator(seed, speaker)), 0
    for number in range(1, options["sessions"] + 1):
        rng = _generator(seed, speaker, number)
        session = _draw_session(rng, sample_rate)
        path = pathlib.Path(folder, "wav", f"id{speaker}", f"s{number:02d}")
        path.mkdir(parents=True)
        for utterance in range(1, options["utterances"] + 1):
            rng = _generator(seed, speaker, number, utterance)
            frames = round(rng.uniform(*options["seconds"]) / FRAME)
            speech = _speak(rng, voice, session, frames, sample_rate)
            samples += len(speech)
            soundfile.write(
                path / f"{utterance:05d}.wav",
                _record(rng, speech, session, sample_rate),
                sample_rate,
                subtype="PCM_16",
            )
    return samples / sample_rate


def _trial_lines(options):
    """Lines `label enrol test`, targets across sessions, in random order."""
    names = ("test_speakers", "sessions", "utterances")
    shape = [options[name] for name in names]
    first, second = np.triu_indices(np.prod(shape), 1)
    places = [np.unravel_index(side, shape) for side in (first, second)]
    same_speaker = places[0][0] == places[1][0]
    other_session = places[0][1] != places[1][1]
    rng, lines = _generator(options["seed"]), []
    for label, fits in ((1, same_speaker & other_session), (0, ~same_speaker)):
        count = options["trials"] // 2
        for pair in rng.choice(np.flatnonzero(fits), count, replace=False):
            paths = [
                f"id{FIRST_TEST + speaker[pair]}/s{session[pair] + 1:02d}"
                f"/{utterance[pair] + 1:05d}.wav"
                for speaker, session, utterance in places
            ]
            lines.append(f"{label} {paths[0]} {paths[1]}\n")
    return rng.permutation(lines)


def _check(options):
    """Raise ValueError on the first option that cannot be met."""
    for name, (low, high, remedy) in LIMITS.items():
        value = options[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not low <= value <= high:
            raise ValueError(
                f"`{name}` must be an integer in [{low}, {high}], "
                f"got {value!r}; {remedy}."
            )
    seconds = options["seconds"]
    if len(seconds) != 2 or not 0.5 <= seconds[0] <= seconds[1] <= 60:
        raise ValueError(
            "`seconds` must be a shortest and a longest duration in "
            f"[0.5, 60] seconds, got {seconds}; pass for instance (2.0, 3.5)."
        )
    per_speaker = math.comb(options["sessions"], 2) * options["utterances"] ** 2
    most = 2 * options["test_speakers"] * per_speaker
    if options["trials"] > most or options["trials"] % 2:
        raise ValueError(
            f"`trials` must be even and at most {most}, twice the target "
            f"pairs, got {options['trials']}; ask for fewer, or for more "
            "test speakers, sessions or utterances."
        )


def _is_finished(folder, options):
    """Whether the folder holds this corpus; an error if it holds another thing."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = "no finished toy corpus"
    if found != _marker(options):
        raise FileExistsError(
            f"`folder` must be new, empty or a corpus of the same options, "
            f"got {folder}, which holds {found}; name another folder or "
            "delete this one."
        )
    return True


def _marker(options):
    """What is written last: a corpus without it is not finished."""
    about = "Synthetic voices: no figure on them holds for real speakers."
    return {"about": about, "version": VERSION, "options": options}


def _build(folder, options, workers):
    """Write the whole corpus into a new folder."""
    meta = folder / TRIALS
    meta.parent.mkdir(parents=True)
    meta.write_text("".join(_trial_lines(options)), encoding="utf-8")
    speakers = [
        first + number
        for first, name in (
            (FIRST_TRAIN, "train_speakers"),
            (FIRST_TEST, "test_speakers"),
        )
        for number in range(options[name])
    ]
    write = functools.partial(_write_speaker, folder, options)
    if workers == 1:
        list(map(write, speakers))
    else:
        with concurrent.futures.ProcessPoolExecutor(workers) as pool:
            list(pool.map(write, speakers))
    marker = json.dumps(_marker(options), indent=2) + "\n"
    (folder / MARKER).write_text(marker, encoding="utf-8")


def synthesise_corpus(
    folder,
    train_speakers=40,
    test_speakers=16,
    sessions=3,
    utterances=4,
    seconds=(2.0, 3.5),
    trials=1500,
    seed=1234,
    sample_rate=16000,
    workers=None,
):
    """Write a corpus of synthetic voices with VoxCeleb's layout and a trial list.

    Recordings are `wav/<speaker>/<session>/<utterance>.wav`, 16-bit mono:
    speakers to train from id10001, speakers of the trials from id20001. A
    voice keeps its larynx, tract and accent; every session has a mood, a
    room and a channel of its own. `meta/veri_toy.txt` has lines
    `label enrol test`, as many targets (1, across sessions) as nontargets
    (0), no pair twice in either order.

    Samples come from (seed, speaker, session, utterance) alone. The corpus is
    built beside ``folder`` and renamed when done; a finished one with the
    same options is kept as it is.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where the corpus goes: new, empty, or a corpus of the same options.
    train_speakers : int
        Speakers outside the trials.
    test_speakers : int
        Speakers in the trials, at least 2.
    sessions : int
        Sessions of each speaker, at least 2.
    utterances : int
        Utterances of each session.
    seconds : tuple of float
        Shortest and longest utterance, seconds, in [0.5, 60].
    trials : int
        Lines of the trial list: even, at most twice the target pairs,
        ``test_speakers * sessions * (sessions - 1) * utterances**2``.
    seed : int
        Seed of everything, at least 0.
    sample_rate : int
        Samples per second, in [8000, 48000].
    workers : int, optional
        Processes, by default one per CPU; no sample depends on it.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    ValueError
        If an option is out of its range.
    FileExistsError
        If ``folder`` holds anything but this corpus; it is left untouched.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     corpus = synthesise_corpus(
    ...         root, 1, 2, 2, 1, seconds=(0.5, 0.5), trials=4, workers=1
    ...     )
    ...     len(list(corpus.glob("wav/*/*/*.wav")))
    6
    """
    options = {
        "train_speakers": train_speakers,
        "test_speakers": test_speakers,
        "sessions": sessions,
        "utterances": utterances,
        "seconds": [float(value) for value in seconds],
        "trials": trials,
        "seed": seed,
        "sample_rate": sample_rate,
    }
    workers = (os.cpu_count() or 1) if workers is None else workers
    _check({**options, "workers": workers})
    folder = pathlib.Path(folder)
    if _is_finished(folder, options):
        logger.info("%s is there already: kept", folder)
        return folder
    goal = folder.resolve()
    part = goal.with_name(f".{goal.name}.{uuid.uuid4().hex}.part")
    try:
        _build(part, options, workers)
        try:
            part.rename(goal)
        except OSError:  # another process may have finished the same corpus
            if not _is_finished(folder, options):
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    logger.info("%s: synthetic voices written", folder)
    return folder


def main(arguments=None):
    """Synthesise a corpus from the command line and print one line about it.

    Arguments
    ---------
    arguments : list of str, optional
        The command line, by default that of the process.
    """
    parser = argparse.ArgumentParser(description=main.__doc__.splitlines()[0])
    parser.add_argument("folder")
    for name, entry in inspect.signature(synthesise_corpus).parameters.items():
        if name == "seconds":
            parser.add_argument(
                "--seconds", type=float, nargs=2, default=entry.default
            )
        elif name != "folder":
            parser.add_argument(f"--{name}", type=int, default=entry.default)
    options = vars(parser.parse_args(arguments))
    try:
        folder = synthesise_corpus(**options)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    count = len(list(folder.glob("wav/*/*/*.wav")))
    print(
        f"{folder}: {count} utterances of {options['train_speakers']} voices "
        f"to train and {options['test_speakers']} to test, "
        f"{options['trials']} trials; every voice is synthetic."
    )


if __name__ == "__main__":
    main()
