"""Further normalisations of scores: one-sided, cross-selected, leaving out.

``speechbrain_ext.processing.scoring.adaptive_s_norm`` is the usual one. These
cost more where statistics belong to a trial and not to an utterance.
"""

import torch

from speechbrain_ext.processing import scoring

SIDES = {"z": ("enrol",), "t": ("test",), "s": ("enrol", "test")}


@torch.no_grad()
def normalise_scores(
    scores,
    enrol,
    test,
    embeddings,
    cohort,
    top_n=None,
    kind="s",
    selection="own",
    speakers=None,
    cohort_speakers=None,
):
    """Normalises scores by one or both sides' scores against a cohort.

    A side's scores with a cohort have a mean and a (population's) deviation;
    (s - mean) / deviation is averaged over the sides of ``kind``. The cohort
    is whole or the ``top_n`` nearest: each side's own (AS-norm1), or those of
    the trial's other side (AS-norm2, Matejka et al., "Analysis of Score
    Normalization in Multilingual Speaker Recognition", Interspeech 2017).

    Arguments
    ---------
    scores : torch.Tensor
        Cosine scores of the trials, [trials].
    enrol : torch.Tensor | sequence
        Same as in ``cosine_scores``.
    test : torch.Tensor | sequence
        Same as in ``cosine_scores``.
    embeddings : torch.Tensor
        Same as in ``cosine_scores``.
    cohort : torch.Tensor
        One row per impostor, [cohort, embedding].
    top_n : int
        Cohort rows per side, 2 or more; all of them where None or fewer.
    kind : str
        ``z`` (by the enrolment side), ``t`` (by the test side) or ``s``.
    selection : str
        Whose nearest ``top_n`` rows a side meets, ``own`` or ``other``.
    speakers : sequence
        Speaker of each row of ``embeddings``, to leave both speakers of a
        trial out of its cohort, as trials of cohort speakers need; None
        leaves none out.
    cohort_speakers : sequence
        Speaker of each cohort row; goes with ``speakers``.

    Returns
    -------
    normalised : torch.Tensor
        Scores in deviations, [trials].

    Raises
    ------
    ValueError
        If ``kind`` or ``selection`` is unknown, only one kind of speakers is
        named, a trial's speakers leave fewer than 2 cohort rows, or a
        deviation vanishes; else same as ``adaptive_s_norm``.

    Example
    -------
    >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> cohort = torch.tensor([[0.0, 2.0], [3.0, 4.0], [1.0, 0.0]])
    >>> score = torch.tensor([0.9])
    >>> normalise_scores(score, [0], [1], embeddings, cohort, 2, kind="z")
    tensor([0.5000])
    """
    if kind not in SIDES:
        raise ValueError(f"`kind` must be of {sorted(SIDES)}, got {kind!r}.")
    statistics = cohort_measures(
        *(scores, enrol, test, embeddings, cohort, top_n, selection),
        *(speakers, cohort_speakers),
    )
    total = 0.0
    for side in SIDES[kind]:
        means, stds = statistics[side]
        total = total + (scores.to(means) - means) / stds
    dtype = torch.promote_types(scores.dtype, embeddings.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    return (total / len(SIDES[kind])).to(dtype)


@torch.no_grad()
def cohort_measures(
    scores,
    enrol,
    test,
    embeddings,
    cohort,
    top_n=None,
    selection="own",
    speakers=None,
    cohort_speakers=None,
):
    """Mean and deviation of both sides' scores with the cohort.

    Arguments
    ---------
    scores : torch.Tensor
        Same as in ``normalise_scores``.
    enrol : torch.Tensor | sequence
        Same as in ``normalise_scores``.
    test : torch.Tensor | sequence
        Same as in ``normalise_scores``.
    embeddings : torch.Tensor
        Same as in ``normalise_scores``.
    cohort : torch.Tensor
        Same as in ``normalise_scores``.
    top_n : int
        Same as in ``normalise_scores``.
    selection : str
        Same as in ``normalise_scores``.
    speakers : sequence
        Same as in ``normalise_scores``.
    cohort_speakers : sequence
        Same as in ``normalise_scores``.

    Returns
    -------
    dict
        Maps ``enrol`` and ``test`` to means and deviations, float64 of shape
        [trials] each.

    Raises
    ------
    ValueError
        Same as ``normalise_scores``.
    """
    if selection not in ("own", "other"):
        raise ValueError(
            f"`selection` must be own or other, got {selection!r}."
        )
    if (speakers is None) != (cohort_speakers is None):
        raise ValueError(
            "`speakers` and `cohort_speakers` go together; name both or none."
        )
    unit, rows, enrol, test, cohort, top_n = scoring.checked_trials(
        scores, enrol, test, embeddings, cohort, top_n
    )
    excluded = speakers is not None
    if not excluded and selection == "own":
        # one statistic an utterance, however many its trials
        found = scoring.cohort_statistics(unit, cohort, top_n)
        sides = {
            "enrol": [values[enrol] for values in found],
            "test": [values[test] for values in found],
        }
    else:
        codes = None
        if excluded:
            names = [speakers[row] for row in rows.tolist()]
            codes = _codes(names, cohort_speakers, unit.device)
        both = {"enrol": (enrol, test), "test": (test, enrol)}
        sides = {
            name: _trial_statistics(
                *(unit, cohort, top_n, own),
                *(own if selection == "own" else other, other, codes),
            )
            for name, (own, other) in both.items()
        }
    for name, own in (("enrol", enrol), ("test", test)):
        scoring.check_spread(sides[name][1], unit, top_n, rows[own])
    return sides


def _codes(speakers, cohort_speakers, device):
    """Numbers of the utterances' and of the cohort's speakers."""
    number = {name: i for i, name in enumerate(sorted(set(cohort_speakers)))}
    return tuple(
        torch.tensor([number.get(name, -1) for name in names], device=device)
        for names in (speakers, cohort_speakers)
    )


def _trial_statistics(unit, cohort, top_n, own, selection, other, codes):
    """Mean and deviation of each trial's own cohort scores, [trials]."""
    cohort = cohort.double()
    top = None
    if codes is None:
        top = _top_rows(unit, cohort, top_n)
    means = unit.new_empty(len(own), dtype=torch.float64)
    stds = torch.empty_like(means)
    # Trials of one utterance come together, which then meets the cohort once.
    order = torch.argsort(own, stable=True)
    block_size = 1 + scoring.MOST_COSINES // max(len(cohort), 8 * top_n)
    for block in order.split(block_size):
        different, place = torch.unique(own[block], return_inverse=True)
        cosines = unit[different].double() @ cohort.T
        if top is not None:
            picked = cosines[place.unsqueeze(1), top[selection[block]].long()]
            stds[block], means[block] = torch.std_mean(picked, 1, correction=0)
            continue
        left = _left_out(codes, own[block], other[block])
        cosines = cosines[place]
        nearest = cosines
        if selection is not own:
            nearest = unit[selection[block]].double() @ cohort.T
        nearest = nearest.masked_fill(left, -torch.inf)
        nearest, index = nearest.topk(top_n, dim=1)
        there = nearest > -torch.inf
        count = there.sum(dim=1)
        if (count < 2).any():
            raise ValueError(
                "`cohort` must keep 2 rows or more without the speakers of a "
                f"trial, got {int(count.min())}; take a larger cohort."
            )
        picked = cosines.gather(1, index).where(there, 0.0)
        mean = picked.sum(dim=1) / count
        spread = (picked - mean.unsqueeze(1)).where(there, 0.0)
        means[block] = mean
        stds[block] = (spread.square().sum(dim=1) / count).sqrt()
    return means, stds


def _left_out(codes, own, other):
    """Cohort rows of either speaker of each trial, [block, cohort]."""
    speakers, cohort_speakers = codes
    one, two = (speakers[side].unsqueeze(1) for side in (own, other))
    return (cohort_speakers == one) | (cohort_speakers == two)


def _top_rows(unit, cohort, top_n):
    """Each utterance's nearest cohort rows, [utterances, top_n]."""
    block_size = 1 + scoring.MOST_COSINES // len(cohort)
    blocks = unit.split(block_size)
    found = [
        (block.double() @ cohort.T).topk(top_n, dim=1, sorted=False)[1].int()
        for block in blocks
    ]
    return torch.cat(found)


@torch.no_grad()
def enrolment_embeddings(embeddings, models):
    """The embedding of each speaker enrolled with several utterances.

    The mean of its utterances' embeddings, each brought to length 1 first so
    that none outweighs the others. Scored by cosine, that is the mean of the
    cosines but for one factor a model.

    Arguments
    ---------
    embeddings : torch.Tensor
        One row per utterance, [utterances, embedding].
    models : list of (list of int)
        Row numbers of each model's utterances, one or more each.

    Returns
    -------
    torch.Tensor
        Shape [models, embedding].

    Raises
    ------
    ValueError
        If a model has no utterance, or an embedding is zero or not finite.

    Example
    -------
    >>> embeddings = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    >>> enrolment_embeddings(embeddings, [[0, 1], [1]])
    tensor([[0.5000, 0.5000],
            [0.0000, 1.0000]])
    """
    for number, rows in enumerate(models):
        if not len(rows):
            raise ValueError(
                f"`models` must have utterances each, got none at {number}."
            )
    rows = torch.cat([torch.as_tensor(rows) for rows in models])
    which = torch.repeat_interleave(torch.tensor([len(r) for r in models]))
    unit = scoring.unit_length("embeddings", embeddings[rows], rows)
    sums = unit.new_zeros(len(models), unit.shape[1], dtype=torch.float64)
    sums.index_add_(0, which.to(unit.device), unit.double())
    counts = which.bincount().to(sums).unsqueeze(1)
    return (sums / counts).to(unit.dtype)
