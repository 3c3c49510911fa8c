"""A synthetic corpus in VoxCeleb's layout, to try recipes without a download.

Every voice is synthetic (``synthetic.toy_voices``). Results on this corpus say
nothing about real speakers.

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
# Increase it when the same options give other samples.
VERSION = 1
FIRST_TRAIN, FIRST_TEST = 10001, 20001
# Lowest and highest value, and what to do.
LIMITS = {
    "train_speakers": (1, 9999, "pass the number of training speakers"),
    "test_speakers": (2, 999, "a nontarget trial needs two speakers"),
    "sessions": (2, 99, "a target trial needs two sessions of a speaker"),
    "utterances": (1, 99, "pass the number of utterances per session"),
    "trials": (2, 10**6, "pass an even number"),
    "seed": (0, 2**63 - 1, "pass an integer that is not negative"),
    "sample_rate": (8000, 48000, "pass a rate in Hz, for example 16000"),
    "workers": (1, 1024, "pass None for one per CPU"),
}


def _write_speaker(folder, options, speaker):
    """Writes all sessions of one speaker."""
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
    """Raises for the first option that is not valid."""
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
            "`seconds` must have a shortest and a longest duration in "
            f"[0.5, 60] seconds, got {seconds}; pass for example (2.0, 3.5)."
        )
    per_speaker = math.comb(options["sessions"], 2) * options["utterances"] ** 2
    most = 2 * options["test_speakers"] * per_speaker
    if options["trials"] > most or options["trials"] % 2:
        raise ValueError(
            f"`trials` must be even and at most {most} (twice the number of "
            f"target pairs), got {options['trials']}; use fewer trials, or "
            "more test speakers, sessions or utterances."
        )


def _is_finished(folder, marker):
    """Whether the folder has this corpus. Raises if it has something else."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return False
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = "no finished toy corpus"
    if found != marker:
        raise FileExistsError(
            "`folder` must be new, empty or a toy corpus with the same "
            f"options, got {folder}, which has {found}; use another folder or "
            "delete this one."
        )
    return True


def _build(folder, marker, workers):
    """Writes the corpus to a new folder; the marker comes last."""
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
    """Writes a corpus of synthetic voices in VoxCeleb's layout, with trials.

    Recordings are `wav/<speaker>/<session>/<utterance>.wav`, 16-bit mono.
    Training speakers start at id10001, test speakers at id20001. A speaker
    keeps the larynx, the vocal tract and the accent; every session has its own
    mood, room and channel. `meta/veri_toy.txt` has lines `label enrol test`.
    Half of the trials are targets (1, across sessions), the other half
    nontargets (0). No pair occurs twice, in either order.

    Samples depend only on (seed, speaker, session, utterance). The corpus is
    built in a temporary folder beside ``folder``, which is renamed in the end.
    A killed run leaves a folder `.<name>.*.part`, which may be deleted. A
    finished corpus with the same options is kept.

    Arguments
    ---------
    folder : str or pathlib.Path
        Folder of the corpus: new, empty, or a corpus with the same options.
    train_speakers : int
        Number of training speakers.
    test_speakers : int
        Number of speakers in the trials, at least 2.
    sessions : int
        Sessions per speaker, at least 2.
    utterances : int
        Utterances per session.
    seconds : tuple of float
        Shortest and longest utterance, seconds, in [0.5, 60].
    trials : int
        Number of trials: even, at most twice the number of target pairs,
        ``test_speakers * sessions * (sessions - 1) * utterances**2``.
    seed : int
        Seed of all random draws, at least 0.
    sample_rate : int
        Sample rate, Hz, in [8000, 48000].
    workers : int, optional
        Number of processes; defaults to one per CPU. Samples do not depend on
        it.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    ValueError
        If an option is out of its range.
    FileExistsError
        If ``folder`` has other files; they are left untouched.

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
        logger.info("%s exists already and is kept", folder)
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
    """Synthesises a corpus from the command line and prints a summary.

    Arguments
    ---------
    arguments : list of str, optional
        The command line; defaults to that of this process.

    Example
    -------
    >>> import tempfile
    >>> sizes = "--train_speakers 1 --test_speakers 2 --sessions 2 --trials 4"
    >>> sizes = [*sizes.split(), "--utterances", "1", "--workers", "1"]
    >>> with tempfile.TemporaryDirectory() as root:
    ...     main([root, *sizes])  # doctest: +ELLIPSIS
    /...: 6 utterances of 1 training and 2 test speakers, 4 trials; every...
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
        f"{folder}: {count} utterances of {options['train_speakers']} training "
        f"and {options['test_speakers']} test speakers, "
        f"{options['trials']} trials; every voice is synthetic."
    )


if __name__ == "__main__":
    main()
