"""Finds the embeddings of the trials in a list."""

import numpy as np
import pandas as pd
import torch
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.dataio.utterance_ids import literal_ids
from speechbrain_ext.processing.cosine import enrolment_embeddings

logger = get_logger(__name__)

WORDS = {"enrol": "enrolment", "test": "test utterance"}


def require_models(enrolment, scorings, conditions=None):
    """Raises if there are models, and something is wanted that they lack.

    Arguments
    ---------
    enrolment : str
        The enrolment list; None if there are no models.
    scorings : sequence of str
        Names of scorings.
    conditions : str
        The user's table of conditions, or None.

    Raises
    ------
    ValueError
        If there are models, and ``crops`` is among the scorings or there is a
        table.

    Example
    -------
    >>> require_models("models.txt", ["cosine"])
    """
    if enrolment is None:
        return
    remedy = (
        f"but `enrolment` has models: {enrolment}; use only one of the two."
    )
    if "crops" in scorings:
        raise ValueError(
            f"The scoring crops compares single utterances, {remedy}"
        )
    if conditions is not None:
        raise ValueError(f"`conditions` are those of utterances, {remedy}")


class TrialEmbeddings:
    """Embeddings of utterances, and of models, by the names in trial lists.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, spk_id and duration.
    embeddings : torch.Tensor
        One row per utterance of the manifest, [utterances, embedding].
    models : dict
        Maps the name of each model to the IDs of its utterances; the first
        names in the lists are then models. Models with an utterance that the
        manifest lacks are left out. None if the lists name only utterances.
    crops : torch.Tensor
        Embeddings of the crops of each utterance, [utterances, crops,
        embedding], or None. Models have none.

    Example
    -------
    >>> table = pd.DataFrame(
    ...     {"ID": ["a/1/1", "a/2/1"], "spk_id": "a", "duration": 2.0}
    ... )
    >>> models = {"m": ["a/1/1", "a/2/1"]}
    >>> rows = TrialEmbeddings(table, torch.eye(2), models)
    >>> rows.embeddings.shape, rows.seconds.tolist(), int(rows.enrol_rows.m)
    (torch.Size([3, 2]), [2.0, 2.0, 4.0], 2)
    """

    def __init__(self, manifest, embeddings, models=None, crops=None):
        self.embeddings, self.crops = embeddings, crops
        ids = manifest["ID"].tolist()
        self.speakers = manifest["spk_id"].tolist()
        self.seconds = manifest["duration"].to_numpy(copy=True)
        self.rows = pd.Series(range(len(ids)), index=ids)
        self.enrol_rows = self.rows
        self.own = {}  # the IDs of each model's utterances
        if models is not None:
            self._enrol(models)

    def _enrol(self, models):
        """Adds a row for each model whose utterances are all there."""
        known = set(self.rows.index)
        self.own = {
            name: set(ids)
            for name, ids in models.items()
            if known.issuperset(ids)
        }
        models = {name: self.rows[models[name]].tolist() for name in self.own}
        mixed = [
            name
            for name, rows in models.items()
            if len({self.speakers[row] for row in rows}) > 1
        ]
        if mixed:
            logger.warning(
                f"Models in `enrolment` with utterances of several speakers: "
                f"{len(mixed)}, for example {mixed[0]}; check the list."
            )
        first = len(self.embeddings)
        made = enrolment_embeddings(self.embeddings, list(models.values()))
        self.embeddings = torch.cat([self.embeddings, made])
        self.speakers += [self.speakers[rows[0]] for rows in models.values()]
        added = [self.seconds[rows].sum() for rows in models.values()]
        self.seconds = np.append(self.seconds, added)
        self.enrol_rows = pd.Series(
            range(first, first + len(models)), index=list(models)
        )

    def trials(self, path, labelled=True):
        """Reads a trial list.

        Arguments
        ---------
        path : pathlib.Path
            The list.
        labelled : bool
            Whether it must have labels, see ``read_trials``.

        Returns
        -------
        trials : pandas.DataFrame
            The trials, as ``read_trials`` returns them.
        numbers : tuple of torch.Tensor
            Row numbers of the two sides, [trials] each.

        Raises
        ------
        ValueError
            If a name has no embedding.
        """
        known = set(self.rows.index).union(self.enrol_rows.index)
        trials = read_trials(path, labelled, literal_ids(known))
        doubled = int(trials[["enrol", "test"]].duplicated().sum())
        if doubled:
            logger.warning(
                f"{path.name} repeats {doubled} trial{'s' * (doubled > 1)}; "
                "repeated trials count each time."
            )
        self._warn_of_own_tests(path, trials)
        numbers = []
        for side, rows in (("enrol", self.enrol_rows), ("test", self.rows)):
            unknown = sorted(set(trials[side]) - set(rows.index))
            if unknown:
                raise ValueError(
                    f"{path} lists {len(unknown)} {WORDS[side]}"
                    f"{'s' * (len(unknown) > 1)} without embeddings, for "
                    f"example {unknown[0]}; prepare the list "
                    "again, with the folders and models that have them."
                )
            numbers.append(
                torch.from_numpy(rows[trials[side]].to_numpy(copy=True))
            )
        return trials, tuple(numbers)

    def _warn_of_own_tests(self, path, trials):
        """Warns of trials whose test utterance is one of its model's."""
        own = sum(
            test in self.own.get(model, ())
            for model, test in zip(trials["enrol"], trials["test"], strict=True)
        )
        if own:
            logger.warning(
                f"{path.name}: the test utterance of {own} "
                f"trial{'s' * (own > 1)} enrols the model that it is compared "
                "with, so the score is too high."
            )

    def trial_speakers(self, numbers):
        """The speakers of the two sides of trials.

        Arguments
        ---------
        numbers : tuple of torch.Tensor
            Row numbers of the two sides, [trials] each.

        Returns
        -------
        list of np.ndarray
            Speaker names, [trials] each.
        """
        speakers = np.array(self.speakers).astype(str)
        return [speakers[side.numpy()] for side in numbers]
