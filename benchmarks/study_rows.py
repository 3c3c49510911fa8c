"""The record of one run of a study: its figures, with where they come from."""

import json
import shlex

import numpy as np
import record
import study_file

from speechbrain_ext.dataio.score_files import read_scores
from speechbrain_ext.utils.error_curve import ErrorCurve
from speechbrain_ext.utils.train_logger import read_history

DET_POINTS = 40
# Of the last epoch: what training did with wrong labels
TRAINING = {
    "train clean accuracy": "%",
    "train wrong accuracy": "%",
    "train memorised": "%",
    "train filter precision": "%",
    "train filter recall": "%",
    "train filter AUC": "",
    "train relabelled well": "%",
    "train bias": "",
}


def det_points(scores_file):
    """False acceptances and rejections of a score file, [[fa, fr], ...]."""
    _, _, scores, targets = read_scores(scores_file)
    scores, targets = np.asarray(scores), np.asarray(targets, dtype=bool)
    curve = ErrorCurve.from_scores(scores[targets], scores[~targets])
    accepted = np.asarray(curve.accepted) / curve.negatives
    rejected = np.asarray(curve.rejected) / curve.positives
    wanted = np.geomspace(max(1e-4, 1 / curve.negatives), 0.6, DET_POINTS)
    # accepted falls as the threshold rises
    places = np.searchsorted(-accepted, -wanted)
    places = np.unique(np.clip(places, 0, len(accepted) - 1))
    pairs = np.stack([accepted[places], rejected[places]], 1)
    return np.round(pairs, 4).tolist()


def record_of(run, commands, folder, tree, phases, paths):
    """All rows of a run that has ended.

    Arguments
    ---------
    run : dict
        Its setting.
    commands : dict
        Its commands.
    folder : pathlib.Path
        Its folder, in ``runs`` of the study's.
    tree : pathlib.Path
        The work tree.
    phases : study_run.Phases
        Its times.
    paths : dict
        Words by which paths of this machine are called in the command.
    """
    results = study_file.results_folder(run, folder)
    command = "; ".join(
        shlex.join(["python", *words]) for _, words in commands.values()
    )
    for path, word in paths.items():
        command = command.replace(str(path), word)
    about = record.provenance(run["seed"], phases.minutes(), command, tree)
    about["setting"] = run
    words = f"{run['system']} seed {run['seed']}"
    rows = [
        record.row(f"{words} {phase}", phases.minutes(phase), "min")
        for phase in commands
    ]
    for found in json.loads((results / "results.json").read_text()):
        rows += _figures(words, run, found, results, folder.parents[1])
    labels = folder / study_file.LABELS / "label_report.json"
    if run.get("label_report"):
        rows += _labels(words, run, json.loads(labels.read_text()))
        last = [{}, *read_history(folder / "training" / "epochs.jsonl")][-1]
        for figure, unit in TRAINING.items():
            if figure in last:
                row = record.row(
                    f"{words} {figure}", last[figure], unit, digits=4
                )
                rows.append(row | {"figure": figure, "system": run["system"]})
    return [row | about for row in rows]


def _labels(words, run, found):
    """Rows of how well the wrong labels of a run are found."""
    wrong = 100 * found["wrong"] / found["utterances"]
    row = record.row(f"{words} wrong labels", wrong, "%")
    yield row | {"figure": "wrong labels", "system": run["system"]}
    for score, values in found["scores"].items():
        for figure, key in (
            ("label AUC", "ROC AUC"),
            ("label precision", "precision at the noise rate"),
        ):
            row = record.row(
                f"{words} {figure} {score}", values[key], "", digits=4
            )
            row |= {"figure": figure, "system": run["system"]}
            yield row | {"score": score}


def _figures(words, run, found, results, study_folder):
    """Rows of one list and scoring: EER and minDCF, with intervals."""
    scores = results / found["scores"]
    about = {key: found[key] for key in ("trials", "scoring")}
    about["system"] = run["system"]
    words = f"{words} {found['trials']} {found['scoring']}"
    for key, value in found.items():
        if key != "EER %" and not key.startswith("minDCF"):
            continue
        if key.endswith("interval"):
            continue
        figure, percent, _ = key.partition(" %")
        row = record.row(
            f"{words} {figure}", value, "%" if percent else "", digits=4
        )
        row |= about | {"figure": figure}
        if f"{key} interval" in found:
            row["interval"] = [
                round(end, 4) for end in found[f"{key} interval"]
            ]
        if figure == "EER":
            row["scores"] = str(scores.relative_to(study_folder))
            row["det"] = det_points(scores)
        yield row
