"""Runs that have ended, kept in small files: a study continues elsewhere.

`--keep FOLDER` of `study.py` gives each run a file NAME.npz there. It has the
run's rows and, of each score file, the ranks of its scores: EER, minDCF, their
intervals and paired differences depend on nothing else. The trials are kept
once, in trials_DIGEST.txt.xz. A study with a new output folder takes over the
runs that it finds there, with ranks in the place of scores.
"""

import hashlib
import io
import json
import lzma
import zipfile
import zlib

import numpy as np
import record

from speechbrain_ext.dataio.score_files import read_scores, write_scores
from speechbrain_ext.utils.files import atomic_write

# what reading such a file raises
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
DAMAGED += (KeyError, TypeError, ValueError)


def keep(name, rows, study_folder, folder):
    """Writes the file of a run that has ended, unless it is there.

    Arguments
    ---------
    name : str
        The run's.
    rows : list of dict
        The run's. Those with `scores` name a file in `study_folder`.
    study_folder : pathlib.Path
        The study's output folder.
    folder : pathlib.Path
        Where the file is written.
    """
    path = folder / f"{name}.npz"
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"rows": np.array(json.dumps(rows))}
    for file in [row["scores"] for row in rows if "scores" in row]:
        *names, scores, targets = read_scores(study_folder / file)
        lines = zip(*names, targets.int().tolist(), strict=True)
        text = "".join("{} {} {}\n".format(*line) for line in lines).encode()
        digest = hashlib.sha256(text).hexdigest()[:16]
        trials = _trials(folder, digest)
        if not trials.exists():
            record.write_bytes(trials, lzma.compress(text))
        ranks = np.unique(scores.numpy(), return_inverse=True)[1]
        small = np.min_scalar_type(ranks.max())
        arrays[f"ranks {file}"] = ranks.astype(small)
        arrays[f"trials {file}"] = np.array(digest)
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    record.write_bytes(path, stream.getvalue())


def _trials(folder, digest):
    return folder / f"trials_{digest}.txt.xz"


def read(path):
    """What `keep` wrote: the rows, and of each score file its trials.

    Returns
    -------
    rows : list of dict
        The run's.
    scores : dict
        By the path of a score file: names of the enrolment utterances, names
        of the test utterances, ranks (0 is the lowest) and targets, [trials].
    """
    with np.load(path) as arrays:
        rows, scores = json.loads(str(arrays["rows"])), {}
        for file in [row["scores"] for row in rows if "scores" in row]:
            trials = _trials(path.parent, arrays[f"trials {file}"])
            text = lzma.decompress(trials.read_bytes()).decode()
            lines = [line.split() for line in text.splitlines()]
            enrol, test, targets = zip(*lines, strict=True)
            targets = np.array(targets) == "1"
            ranks = arrays[f"ranks {file}"].astype(float)
            scores[file] = enrol, test, ranks, targets
    return rows, scores


def restore(runs, commit, study_folder, folder):
    """Takes over the runs that are kept and that the study has not.

    All files are checked before the first is taken over. A run that others
    start from is trained again, because its encoder is not kept. A run that
    has begun in this folder goes on.

    Arguments
    ---------
    runs : dict
        Settings of the study's runs by name.
    commit : str
        The study's.
    study_folder : pathlib.Path
        The study's output folder.
    folder : pathlib.Path
        That of the kept runs.

    Returns
    -------
    names : list of str
        The runs that were taken over.

    Raises
    ------
    ValueError
        If a kept run is damaged, or of another setting or commit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        name: _checked(folder / f"{name}.npz", run, commit)
        for name, run in runs.items()
        if (folder / f"{name}.npz").exists()
    }
    bases = {run.get("start_from") for run in runs.values()}
    taken = []
    for name, (rows, scores) in kept.items():
        own = study_folder / "runs" / name
        begun = [own / f for f in ("setting.json", "record.json")]
        if name in bases or any(f.exists() for f in begun):
            continue
        for file, columns in scores.items():
            write_scores(study_folder / file, *columns)
        with atomic_write(own / "record.json") as stream:
            stream.write(record.text_of(rows))
        taken.append(name)
    return taken


def _checked(path, run, commit):
    """What a run's file has; raises unless it is that run's."""
    try:
        rows, scores = read(path)
    except DAMAGED as error:
        raise ValueError(
            f"{path} is damaged, or no file of a kept run; move it away."
        ) from error
    held = rows[0]
    if held["setting"] != run:
        raise ValueError(
            f"{path} is of another setting: {held['setting']}; give the "
            "system another name, or name another --keep."
        )
    if held["commit"] != commit:
        raise ValueError(
            f"{path} was measured at commit {held['commit'][:12]}, but the "
            f"study is of {commit[:12]}; go on in a new --output_folder with "
            f"--commit={held['commit'][:12]}, or name another --keep."
        )
    return rows, scores
