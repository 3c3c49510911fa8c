"""Score files in Kaldi's form, with every digit of the scores."""

import io
import math
import os
import pathlib

import torch

from speechbrain_ext.dataio.text_files import SHOWN, read_text
from speechbrain_ext.utils.files import atomic_write

LABELS = ("nontarget", "target")
FORMS = {"wespeaker": (" nontarget", " target"), "kaldi": ("", "")}
ENDINGS = {"wespeaker": "txt", "kaldi": "kaldi"}


def require_distinct_names(paths):
    """Raises if score files of two trial lists would have the same name.

    Arguments
    ---------
    paths : list of pathlib.Path
        The lists.

    Raises
    ------
    ValueError
        If two have the same name, without folder and ending.

    Example
    -------
    >>> require_distinct_names([pathlib.Path("a/O.txt"), pathlib.Path("E.txt")])
    """
    stems = [path.stem for path in paths]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(
            f"Several trial lists are called {', '.join(twice)}, so that one's "
            "scores would replace the other's; rename one, or verify them "
            "into different output folders."
        )


def write_scores(
    path, enrol_names, test_names, scores, targets, form="wespeaker"
):
    """Writes one ``enrol test score target|nontarget`` line per trial.

    This is WeSpeaker's form; Kaldi's has no fourth word. Scores keep all their
    digits. The file is written whole or not at all.

    Arguments
    ---------
    path : str | pathlib.Path
        File to write; its folder is created.
    enrol_names : sequence
        Name of each trial's enrolment utterance, without blanks, [trials].
    test_names : sequence
        Name of each trial's test utterance, without blanks, [trials].
    scores : torch.Tensor | sequence
        Finite scores, [trials].
    targets : torch.Tensor | sequence
        True or 1 for target trials, False or 0 for others, [trials].
    form : str
        ``wespeaker`` or ``kaldi``.

    Raises
    ------
    ValueError
        If the lengths differ, a name is empty or has a blank, a score is not
        finite, a target is neither 0 nor 1 or the form is unknown.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.score"
    >>> write_scores(path, ["a", "a"], ["b", "c"], [0.5, 0.1], [True, False])
    >>> path.read_text()
    'a b 0.5 target\\na c 0.1 nontarget\\n'
    """
    _check_form(form)
    # without a dtype a list of floats would become float32
    scores = torch.as_tensor(scores, dtype=torch.float64).flatten()
    targets = torch.as_tensor(targets).flatten()
    lengths = [len(enrol_names), len(test_names), len(scores), len(targets)]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"names, scores and targets must be equally many, got {lengths}."
        )
    for name in {*enrol_names, *test_names}:
        if name.split() != [name]:
            raise ValueError(
                f"names must be one word each, got {name!r}; replace blanks."
            )
    _check_each(scores.isfinite(), scores, "`scores` must be finite")
    binary = (targets == 0) | (targets == 1)
    _check_each(binary, targets, "`targets` must be 0 or 1")
    labels = [FORMS[form][target] for target in targets.bool().tolist()]
    rows = zip(enrol_names, test_names, scores.tolist(), labels, strict=True)
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.writelines(
            f"{enrol} {test} {score!r}{label}\n"
            for enrol, test, score, label in rows
        )


def write_score_files(path, trials, scores, forms=("wespeaker",)):
    """Writes the scores of a trial list in several forms.

    Arguments
    ---------
    path : str | pathlib.Path
        The files' path without the ending: ``.txt`` (WeSpeaker's form) or
        ``.kaldi``.
    trials : pandas.DataFrame
        enrol, test and target, as ``read_trials`` returns them.
    scores : np.ndarray
        Finite scores, [trials].
    forms : sequence of str
        ``wespeaker``, ``kaldi`` or both.

    Returns
    -------
    list of str
        Names of the files that were written, one for each form.

    Raises
    ------
    ValueError
        If a score is not finite or a form is unknown; see ``write_scores``.

    Example
    -------
    >>> import pandas as pd
    >>> path = getfixture("tmp_path") / "scores"
    >>> trials = pd.DataFrame({"enrol": ["a"], "test": ["b"], "target": [True]})
    >>> write_score_files(path, trials, [0.5], ["kaldi"])
    ['scores.kaldi']
    >>> path.with_suffix(".kaldi").read_text()
    'a b 0.5\\n'
    """
    for form in forms:
        _check_form(form)
    files = [f"{path}.{ENDINGS[form]}" for form in forms]
    for file, form in zip(files, forms, strict=True):
        write_scores(
            file,
            trials["enrol"].tolist(),
            trials["test"].tolist(),
            scores,
            trials["target"].to_numpy(copy=True),
            form,
        )
    return [os.path.basename(file) for file in files]


def read_scores(path):
    """Reads a file that ``write_scores`` wrote.

    Arguments
    ---------
    path : str | pathlib.Path
        File of ``enrol test score target|nontarget`` lines.

    Returns
    -------
    enrol_names : list
        Names of the enrolment utterances, [trials].
    test_names : list
        Names of the test utterances, [trials].
    scores : torch.Tensor
        float64, equal to what was written (also in float32), [trials].
    targets : torch.Tensor
        bool, True for target trials, [trials].

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is not text, has no trials, or a line has another form or a
        score that is not finite.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.score"
    >>> _ = path.write_text("a b 0.5 target\\na c -1e-3 nontarget\\n")
    >>> read_scores(path)[2:]
    (tensor([ 0.5000, -0.0010], dtype=torch.float64), tensor([ True, False]))
    """
    enrol_names, test_names, scores, targets = [], [], [], []
    lines = io.StringIO(read_text(path, "score file"))
    for number, line in enumerate(lines, start=1):
        try:
            enrol, test, score, label = line.split()
            scores.append(float(score))
            targets.append(LABELS.index(label))
            if not math.isfinite(scores[-1]):
                raise ValueError(score)
        except ValueError as error:
            raise ValueError(
                "a line must be `enrol test score target|nontarget` with "
                f"a finite score, got {line[:SHOWN]!r} in {path}, line "
                f"{number}."
            ) from error
        enrol_names.append(enrol)
        test_names.append(test)
    if not scores:
        raise ValueError(f"The score file {path} has no trials.")
    scores = torch.tensor(scores, dtype=torch.float64)
    return enrol_names, test_names, scores, torch.tensor(targets).bool()


def _check_form(form):
    """Raises unless a form is known."""
    if form not in FORMS:
        raise ValueError(f"`form` must be one of {list(FORMS)}, got {form!r}.")


def _check_each(holds, values, rule):
    """Raises with the first value that breaks a rule and its trial."""
    if not holds.all():
        wrong = int((~holds).nonzero()[0])
        raise ValueError(
            f"{rule}, got {values[wrong].item()} at trials {wrong}."
        )
