"""Enrolment of models from several utterances."""

from speechbrain_ext.dataio.text_files import read_lines, shorten
from speechbrain_ext.dataio.trials import (
    read_trials,
    utterance_id,
    write_trials,
)

SHOWN = 20  # models that an error names


def read_enrolment(path):
    """Read which utterances enrol each model, in Kaldi's spk2utt form.

    Arguments
    ---------
    path : str
        Lines of ``model utterance utterance ...``, UTF-8.

    Returns
    -------
    dict
        Maps each model's name to the IDs of its utterances, in order.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is no text, names no model, or a model has no utterance, comes
        twice or names one twice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "enrolment.txt"
    >>> _ = path.write_text("model1 id1/a/1.wav id1/b/1.wav\\n")
    >>> read_enrolment(path)
    {'model1': ['id1/a/1', 'id1/b/1']}
    """
    models = {}
    for number, line in read_lines(path, "enrolment list"):
        name, *ids = map(utterance_id, line.split())
        if not ids or name in models or len(set(ids)) != len(ids):
            raise ValueError(
                f"Line {number} of the enrolment list {path} is broken: "
                f"`{shorten(line)}` must be `model utterance ...`, "
                "each model and each of its utterances once; correct it."
            )
        models[name] = ids
    if not models:
        raise ValueError(
            f"The enrolment list {path} names no model; a line is "
            "`model utterance ...`."
        )
    return models


def write_expanded_trials(path, models, written):
    """Writes the trials of models as trials of the models' utterances.

    Arguments
    ---------
    path : str
        A trial list whose first names are models.
    models : dict
        Maps each model's name to the IDs of its utterances.
    written : str
        The list to write: a trial for each utterance of the model, once.

    Raises
    ------
    ValueError
        If the list names a model that is not enrolled.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "list").write_text("1 m a/c/1\\n0 m b/a/1\\n")
    >>> models = {"m": ["a/a/1", "a/b/1"]}
    >>> write_expanded_trials(folder / "list", models, folder / "written")
    >>> read_trials(folder / "written").enrol.tolist()
    ['a/a/1', 'a/b/1', 'a/a/1', 'a/b/1']
    """
    trials = read_trials(path)
    unknown = sorted(set(trials["enrol"]) - set(models))
    if unknown:
        raise ValueError(
            f"{path} names {len(unknown)} models that are not enrolled: "
            f"{shorten(', '.join(unknown[:SHOWN]), 1000)}; add them to "
            "`enrolment`."
        )
    trials["enrol"] = trials["enrol"].map(models)
    trials = trials.explode("enrol").drop_duplicates()
    write_trials(trials, written)
