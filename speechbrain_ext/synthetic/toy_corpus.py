"""A corpus of made-up voices in VoxCeleb's shape, for a run without a download.

Every voice is synthetic (``synthetic.toy_voices``). It serves to
try a recipe out: no figure on it says anything about real speakers.

    python -m speechbrain_ext.synthetic.toy_corpus FOLDER \
        [--train_speakers 40 ...]
"""

import argparse
import concurrent.futures
import functools
import inspect
import itertools
import json
import math
import os
import pathlib
import shutil
import uuid

import numpy as np
import soundfile
from speechbrain.utils.logger import get_logger

from speechbrain_ext.synthetic.toy_voices import (
    FRAME,
    draw_session,
    draw_voice,
    generator,
    record,
    speak,
)

logger = get_logger(__name__)

TRIALS, MARKER = "meta/veri_toy.txt", "toy_corpus.json"
ABOUT = "Synthetic voices: no figure on them holds for real speakers."
# Raised whenever the same options come to give other samples.
VERSION = 1
FIRST_TRAIN, FIRST_TEST = 10001, 20001
# Lowest, highest, and what to do.
LIMITS = {
    "train_speakers": (1, 9999, "pass the speakers outside the trials"),
    "test_speakers": (2, 999, "a nontarget trial needs two speakers"),
    "sessions": (2, 99, "a target trial needs two sessions of a speaker"),
    "utterances": (1, 99, "pass the utterances of one session"),
    "trials": (2, 10**6, "pass an even number"),
    "seed": (0, 2**63 - 1, "pass a whole number that is not negative"),
    "sample_rate": (8000, 48000, "pass samples per second, as 16000"),
    "workers": (1, 1024, "pass None for one per CPU"),
}


def _write_speaker(folder, options, speaker):
    """Every session of one speaker."""
    seed, sample_rate = options["seed"], options["sample_rate"]
    voice = draw_voice(generator(seed, speaker))
    for number in range(1, options["sessions"] + 1):
        rng = generator(seed, speaker, number)
        session = draw_session(rng, sample_rate)
        path = folder / "wav" / f"id{speaker}" / f"s{number:02d}"
        path.mkdir(parents=True)
        for utterance in range(1, options["utterances"] + 1):
            rng = generator(seed, speaker, number, utterance)
            frames = round(rng.uniform(*options["seconds"]) / FRAME)
            speech = speak(rng, voice, session, frames, sample_rate)
            signal = record(rng, speech, session, sample_rate)
            name = path / f"{utterance:05d}.wav"
            soundfile.write(name, signal, sample_rate, subtype="PCM_16")


def _trial_lines(options):
    """Lines `label enrol test`, targets across sessions, in random order."""
    rng, count = generator(options["seed"]), options["trials"] // 2
    speakers, sessions = options["test_speakers"], options["sessions"]
    utterances = (options["utterances"],) * 2

    def draw(*shape):
        ranks = rng.choice(math.prod(shape), count, replace=False)
        return np.unravel_index(ranks, shape)

    pairs = np.array(list(itertools.combinations(range(sessions), 2)))
    who, pair, *place = draw(speakers, len(pairs), *utterances)
    drawn = [(1, (who, who), pairs[pair].T, place)]
    pairs = np.array(list(itertools.combinations(range(speakers), 2)))
    pair, *place = draw(len(pairs), sessions, sessions, *utterances)
    drawn.append((0, pairs[pair].T, place[:2], place[2:]))
    lines = []
    for label, *sides in drawn:
        for trial in np.array(sides).transpose(2, 1, 0):  # [enrol and test, 3]
            enrol, test = (
                f"id{FIRST_TEST + speaker}/s{session + 1:02d}"
                f"/{utterance + 1:05d}.wav"
                for speaker, session, utterance in trial
            )
            lines.append(f"{label} {enrol} {test}\n")
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


def _is_finished(folder, marker):
    """Whether the folder holds this corpus; an error if it holds another."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = "no finished toy corpus"
    if found != marker:
        raise FileExistsError(
            "`folder` must be new, empty or a toy corpus of the same options, "
            f"got {folder}, which holds {found}; name another folder or "
            "delete this one."
        )
    return True


def _build(folder, marker, workers):
    """Write the whole corpus into a new folder, the marker last."""
    options = marker["options"]
    (folder / TRIALS).parent.mkdir(parents=True)
    lines = "".join(_trial_lines(options))
    (folder / TRIALS).write_text(lines, encoding="utf-8")
    speakers = [
        *range(FIRST_TRAIN, FIRST_TRAIN + options["train_speakers"]),
        *range(FIRST_TEST, FIRST_TEST + options["test_speakers"]),
    ]
    write = functools.partial(_write_speaker, folder, options)
    if workers == 1:
        list(map(write, speakers))
    else:
        workers = min(workers, len(speakers))
        with concurrent.futures.ProcessPoolExecutor(workers) as pool:
            list(pool.map(write, speakers))
    text = json.dumps(marker, indent=2) + "\n"
    (folder / MARKER).write_text(text, encoding="utf-8")


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
    """Write a corpus of synthetic voices in VoxCeleb's layout, with trials.

    Recordings are `wav/<speaker>/<session>/<utterance>.wav`, 16-bit mono:
    speakers to train from id10001, speakers of the trials from id20001. A
    voice keeps its larynx, tract and accent; every session has a mood, a
    room and a channel of its own. `meta/veri_toy.txt` has lines
    `label enrol test`, as many targets (1, across sessions) as nontargets
    (0), no pair twice in either order.

    Samples come from (seed, speaker, session, utterance) alone. The corpus is
    built beside ``folder`` and renamed when done: a killed run leaves a
    `.<name>.*.part` to delete, never half a corpus. A finished one with the
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
        "seconds": np.ravel(seconds).astype(float).tolist(),
        "trials": trials,
        "seed": seed,
        "sample_rate": sample_rate,
    }
    workers = (os.cpu_count() or 1) if workers is None else workers
    _check({**options, "workers": workers})
    marker = {"about": ABOUT, "version": VERSION, "options": options}
    folder = pathlib.Path(folder)
    if _is_finished(folder, marker):
        logger.info("%s is there already: kept", folder)
        return folder
    goal = folder.resolve()
    part = goal.with_name(f".{goal.name}.{uuid.uuid4().hex}.part")
    try:
        _build(part, marker, workers)
        try:
            part.rename(goal)
        except OSError:  # another process may have finished the same corpus
            if not _is_finished(folder, marker):
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

    Example
    -------
    >>> import tempfile
    >>> sizes = "--train_speakers 1 --test_speakers 2 --sessions 2 --trials 4"
    >>> sizes = [*sizes.split(), "--utterances", "1", "--workers", "1"]
    >>> with tempfile.TemporaryDirectory() as root:
    ...     main([root, *sizes])  # doctest: +ELLIPSIS
    /...: 6 utterances of 1 voices to train and 2 to test, 4 trials; every...
    """
    parser = argparse.ArgumentParser(description=main.__doc__.splitlines()[0])
    parser.add_argument("folder")
    for name, entry in inspect.signature(synthesise_corpus).parameters.items():
        kind = (
            {"type": float, "nargs": 2} if name == "seconds" else {"type": int}
        )
        if name != "folder":
            parser.add_argument(f"--{name}", default=entry.default, **kind)
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
