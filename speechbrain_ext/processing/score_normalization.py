"""Score normalization by a cohort: z-norm, t-norm, s-norm and AS-norm.

Each side of a trial has cosines with the rows of a cohort, all or the highest
of them. Their mean and standard deviation (the population's) normalize the
trial's score: (s - mean) / deviation. One side gives z-norm or t-norm; the
mean of both sides is s-norm, or AS-norm where only the highest cosines count.

The arguments ``embeddings``, ``enrol`` and ``test`` mean what they mean in
``speechbrain_ext.processing.cosine.cosine_scores``.
"""

import math

import torch

from speechbrain_ext.processing import cosine

SIDES = ("enrol", "test")


@torch.no_grad()
def adaptive_s_norm(
    scores, enrol, test, embeddings, cohort, top_n=None, block_size=512
):
    """Normalizes scores by each side's scores against a cohort (AS-norm).

    s' = ((s - mean_e) / std_e + (s - mean_t) / std_t) / 2. mean_e and std_e
    are those of the enrolment utterance's ``top_n`` highest cosines with the
    cohort, mean_t and std_t those of the test utterance's own ``top_n``
    highest. Matejka et al., "Analysis of Score Normalization in Multilingual
    Speaker Recognition", Interspeech 2017 (AS-norm1); same numbers as
    WeSpeaker's ``score_norm.py``. An utterance is compared with the cohort
    once, in however many trials it is.

    Arguments
    ---------
    scores : torch.Tensor
        Cosine scores of the trials, [trials].
    enrol : torch.Tensor | sequence
        Row numbers, [trials].
    test : torch.Tensor | sequence
        Row numbers, [trials].
    embeddings : torch.Tensor
        Shape [utterances, embedding].
    cohort : torch.Tensor
        One row per impostor, usually a training speaker's mean,
        [cohort, embedding].
    top_n : int
        Number of cohort scores per side, 2 or more; the whole cohort where
        None (s-norm) or where the cohort is smaller.
    block_size : int
        Utterances compared with the cohort at a time, fewer where the cohort
        is large; bounds the memory, not the result.

    Returns
    -------
    normalized : torch.Tensor
        Scores in deviations, on the device of ``embeddings``, [trials].

    Raises
    ------
    ValueError
        If a score, a row number or an embedding is not valid, the top cohort
        scores of an utterance are all equal, or ``top_n`` or the cohort is
        smaller than 2.

    Example
    -------
    >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> cohort = torch.tensor([[0.0, 2.0], [5.0, 0.0]])
    >>> adaptive_s_norm(torch.tensor([0.9]), [0], [1], embeddings, cohort)
    tensor([0.8000])
    """
    statistics = trial_statistics(
        enrol, test, embeddings, cohort, top_n, block_size=block_size
    )
    dtype = torch.promote_types(scores.dtype, embeddings.dtype)
    return normalize_scores(scores.to(dtype), statistics)


@torch.no_grad()
def normalize_scores(scores, statistics, sides=SIDES):
    """Normalizes scores by statistics of one side or of both.

    Arguments
    ---------
    scores : torch.Tensor
        Cosine scores of the trials, [trials].
    statistics : dict
        What ``trial_statistics`` returned.
    sides : sequence of str
        ``enrol`` (z-norm), ``test`` (t-norm) or both (s-norm, AS-norm).

    Returns
    -------
    normalized : torch.Tensor
        Scores in deviations, [trials].

    Raises
    ------
    ValueError
        If ``sides`` is not valid, or ``scores`` are not finite or not one per
        trial.

    Example
    -------
    >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> cohort = torch.tensor([[0.0, 2.0], [3.0, 4.0], [1.0, 0.0]])
    >>> statistics = trial_statistics([0], [1], embeddings, cohort, top_n=2)
    >>> normalize_scores(torch.tensor([0.9]), statistics, ["enrol"])
    tensor([0.5000])
    """
    if not sides or not set(sides) <= set(SIDES):
        raise ValueError(
            f"`sides` must be one or both of {SIDES}, got {sides!r}."
        )
    trials = statistics["enrol"][0].shape
    if scores.shape != trials:
        raise ValueError(
            f"`scores` must be {list(trials)}, one per trial, got "
            f"{list(scores.shape)}."
        )
    rule = "`scores` must be finite"
    cosine.check_each(scores.isfinite(), scores, rule, "trials")
    total = 0.0
    for side in sides:
        means, stds = statistics[side]
        total = total + (scores.to(means) - means) / stds
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return (total / len(sides)).to(dtype)


@torch.no_grad()
def trial_statistics(
    enrol,
    test,
    embeddings,
    cohort,
    top_n=None,
    selection="own",
    speakers=None,
    cohort_speakers=None,
    block_size=512,
):
    """Mean and deviation of both sides' cosines with the cohort.

    The ``top_n`` cohort rows of a side are its own nearest (AS-norm1), or
    those nearest to the other side of the trial (AS-norm2 of Matejka et al.).
    Own rows cost one comparison per utterance. The other side's rows, and
    speakers to leave out, cost one selection per trial.

    Arguments
    ---------
    enrol : torch.Tensor | sequence
        Row numbers, [trials].
    test : torch.Tensor | sequence
        Row numbers, [trials].
    embeddings : torch.Tensor
        Shape [utterances, embedding].
    cohort : torch.Tensor
        One row per impostor, [cohort, embedding].
    top_n : int
        Cohort rows per side, 2 or more; all of them where None or fewer.
    selection : str
        Whose nearest rows a side is compared with, ``own`` or ``other``.
    speakers : sequence
        Speaker of each row of ``embeddings``: both speakers of a trial are
        left out of its cohort, as trials of cohort speakers need. None leaves
        none out.
    cohort_speakers : sequence
        Speaker of each cohort row; required with ``speakers``.
    block_size : int
        Utterances compared with the cohort at a time, fewer where the cohort
        is large; bounds the memory, not the result.

    Returns
    -------
    dict
        Maps ``enrol`` and ``test`` to means and deviations, float64 of shape
        [trials] each.

    Raises
    ------
    ValueError
        If a row number or an embedding is not valid, ``selection`` is
        unknown, only one kind of speakers is given, fewer than 2 cohort rows
        count, or a deviation is zero.

    Example
    -------
    >>> cohort = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    >>> means, stds = trial_statistics([0], [1], torch.eye(2), cohort)["enrol"]
    >>> means.tolist(), stds.tolist()
    ([0.5], [0.5])
    """
    if selection not in ("own", "other"):
        raise ValueError(
            f"`selection` must be own or other, got {selection!r}."
        )
    if (speakers is None) != (cohort_speakers is None):
        raise ValueError(
            "`speakers` and `cohort_speakers` go together; give both or none."
        )
    if block_size < 1:
        raise ValueError(f"`block_size` must be 1 or more, got {block_size}.")
    unit, rows, enrol, test = cosine.unit_trials(embeddings, enrol, test)
    cohort = cosine.unit_length("cohort", cohort)
    if cohort.shape[1] != unit.shape[1]:
        raise ValueError(
            f"`cohort` must be [cohort, {unit.shape[1]}], as `embeddings`, "
            f"got {list(cohort.shape)}."
        )
    top_n = len(cohort) if top_n is None else min(top_n, len(cohort))
    if top_n < 2:
        raise ValueError(
            f"`top_n` of {len(cohort)} cohort rows must be 2 or more, got "
            f"{top_n}."
        )
    if speakers is None and selection == "own":
        means, stds = cohort_statistics(unit, cohort, top_n, block_size)
        _check_spread(stds, unit, top_n, rows)
        return {
            "enrol": (means[enrol], stds[enrol]),
            "test": (means[test], stds[test]),
        }
    codes = None
    if speakers is not None:
        names = [speakers[row] for row in rows.tolist()]
        codes = _speaker_codes(names, cohort_speakers, unit.device)
    found = {}
    for side, own, other in (("enrol", enrol, test), ("test", test, enrol)):
        chosen = own if selection == "own" else other
        found[side] = _selected_statistics(
            unit, cohort, top_n, own, other, chosen, codes
        )
        _check_spread(found[side][1], unit, top_n, rows[own])
    return found


def cohort_statistics(unit, cohort, top_n, block_size=512):
    """Mean and deviation of each row's highest cosines with a cohort.

    Arguments
    ---------
    unit : torch.Tensor
        Embeddings of length 1, [rows, embedding].
    cohort : torch.Tensor
        Cohort rows of length 1, [cohort, embedding].
    top_n : int
        How many of them count, 2 or more.
    block_size : int
        Rows compared with the cohort at a time.

    Returns
    -------
    means : torch.Tensor
        float64, [rows].
    stds : torch.Tensor
        float64, the population's, [rows].

    Example
    -------
    >>> cohort = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> cohort_statistics(torch.eye(2)[:1], cohort, top_n=2)[0]
    tensor([0.5000], dtype=torch.float64)
    """
    # float64: TF32 (on in SpeechBrain) and autocast leave it alone.
    cohort = cohort.double()
    if top_n == len(cohort):
        # The mean of all cosines is the cosine with the mean row. Their spread
        # follows from a triangular factor, so no cosine is computed.
        center = cohort.mean(dim=0)
        factor = torch.linalg.qr(cohort - center, mode="r").R.T
        factor = factor / math.sqrt(top_n)
        blocks = [block.double() for block in unit.split(65536)]
        means = [block @ center for block in blocks]
        stds = [(block @ factor).norm(dim=1) for block in blocks]
        return torch.cat(means), torch.cat(stds)
    means = unit.new_empty(len(unit), dtype=torch.float64)
    stds = torch.empty_like(means)
    block_size = min(block_size, 1 + cosine.MOST_COSINES // len(cohort))
    for start in range(0, len(unit), block_size):
        block = slice(start, start + block_size)
        cosines = unit[block].double() @ cohort.T  # [block, cohort]
        top = cosines.topk(top_n, dim=1, sorted=False).values
        stds[block], means[block] = torch.std_mean(top, 1, correction=0)
    return means, stds


def _check_spread(stds, unit, top_n, rows):
    """Raises where a deviation is zero but for rounding error."""
    # Dividing by rounding error makes noise.
    spread = stds > 8 * torch.finfo(unit.dtype).eps
    rule = f"the deviation of the top {top_n} cohort scores must not be zero"
    remedy = "; drop duplicates from `cohort` or raise `top_n`"
    cosine.check_each(spread, stds, rule, "rows", remedy, rows)


def _speaker_codes(speakers, cohort_speakers, device):
    """Numbers of the utterances' and of the cohort's speakers."""
    number = {name: i for i, name in enumerate(sorted(set(cohort_speakers)))}
    return tuple(
        torch.tensor([number.get(name, -1) for name in names], device=device)
        for names in (speakers, cohort_speakers)
    )


def _selected_statistics(unit, cohort, top_n, own, other, chosen, codes):
    """Statistics of a side whose cohort rows depend on the trial.

    The rows are the nearest of ``chosen``, which is one of the two sides,
    without the speakers of the trial where there are ``codes``.
    """
    cohort = cohort.double()
    top = None if codes else _top_rows(unit, cohort, top_n)
    means = unit.new_empty(len(own), dtype=torch.float64)
    stds = torch.empty_like(means)
    # Trials of one utterance come together: its cosines are computed once.
    order = torch.argsort(own, stable=True)
    block_size = 1 + cosine.MOST_COSINES // max(len(cohort), 8 * top_n)
    for block in order.split(block_size):
        different, place = torch.unique(own[block], return_inverse=True)
        cosines = unit[different].double() @ cohort.T
        if top is not None:
            picked = cosines[place.unsqueeze(1), top[chosen[block]].long()]
            stds[block], means[block] = torch.std_mean(picked, 1, correction=0)
            continue
        left_out = _left_out(codes, own[block], other[block])
        cosines = cosines[place]
        nearest = cosines
        if chosen is not own:
            nearest = unit[chosen[block]].double() @ cohort.T
        nearest = nearest.masked_fill(left_out, -torch.inf)
        nearest, index = nearest.topk(top_n, dim=1)
        there = nearest > -torch.inf
        count = there.sum(dim=1)
        if (count < 2).any():
            raise ValueError(
                "`cohort` must keep 2 rows or more without the speakers of a "
                f"trial, got {int(count.min())}; use a larger cohort."
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
    block_size = 1 + cosine.MOST_COSINES // len(cohort)
    blocks = unit.split(block_size)
    found = [
        (block.double() @ cohort.T).topk(top_n, dim=1, sorted=False)[1].int()
        for block in blocks
    ]
    return torch.cat(found)
