"""Cosine scores and their normalisation by a cohort.

The usual chain, as in WeSpeaker's ``score.py`` and ``score_norm.py``, where
``mean`` is that of all training embeddings (or 0):

>>> training, speakers = torch.eye(4)[:3], ["bo", "al", "al"]
>>> embeddings, enrol, test = torch.rand(5, 4), [0, 1, 2], [3, 4, 0]
>>> mean = training.mean(dim=0)
>>> cohort = speaker_means(training, speakers)[0] - mean
>>> scores = cosine_scores(embeddings - mean, enrol, test)
>>> scores = adaptive_s_norm(scores, enrol, test, embeddings - mean, cohort)

float32 and float64 are kept; half precision is widened to float32.
"""

import math

import torch

MOST_COSINES = 2**24  # at a time, 128 MiB of float64
REPAIR = "; drop these utterances or extract them again"


@torch.no_grad()
def cosine_scores(embeddings, enrol, test, block_size=16384):
    """Scores trials by the cosine of their two embeddings.

    Arguments
    ---------
    embeddings : torch.Tensor
        One row per utterance, [utterances, embedding].
    enrol : torch.Tensor | sequence
        Row number of each trial's enrolment utterance, [trials].
    test : torch.Tensor | sequence
        Row number of each trial's test utterance, [trials].
    block_size : int
        Trials scored at a time; bounds the memory, not the result.

    Returns
    -------
    scores : torch.Tensor
        Cosines in [-1, 1], on the device of ``embeddings``, [trials].

    Raises
    ------
    ValueError
        If a row number is out of range, a trial's embedding is zero or not
        finite, or a shape or ``block_size`` is wrong.

    Example
    -------
    >>> embeddings = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    >>> cosine_scores(embeddings, enrol=[0, 1], test=[1, 2])
    tensor([0.6000, 0.8000])
    """
    _check_least("`block_size`", block_size, 1)
    unit, _, enrol, test = _trial_embeddings(embeddings, enrol, test)
    scores = unit.new_empty(len(enrol))
    for start in range(0, len(scores), block_size):
        block = slice(start, start + block_size)
        scores[block] = (unit[enrol[block]] * unit[test[block]]).sum(dim=1)
    return scores.clamp_(-1.0, 1.0)


@torch.no_grad()
def adaptive_s_norm(
    scores, enrol, test, embeddings, cohort, top_n=None, block_size=512
):
    """Normalises scores by each side's scores against a cohort (AS-norm).

    s' = ((s - mean_e) / std_e + (s - mean_t) / std_t) / 2, where mean_e and
    std_e are those of the enrolment utterance's ``top_n`` highest cosines with
    the cohort, and mean_t and std_t those of the test utterance with a top of
    its own; the deviation is the population's. Matejka et al., "Analysis of
    Score Normalization in Multilingual Speaker Recognition", Interspeech 2017
    (AS-norm1); same numbers as WeSpeaker's ``score_norm.py``. An utterance
    meets the cohort once, in however many trials it is.

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
        One row per impostor, as a rule a training speaker's mean,
        [cohort, embedding].
    top_n : int
        Number of cohort scores per side, 2 or more; the whole cohort where
        None (s-norm) or where the cohort is smaller.
    block_size : int
        Utterances compared with the cohort at a time, fewer where the cohort
        is large; bounds the memory, not the result.

    Returns
    -------
    normalised : torch.Tensor
        Scores in deviations, on the device of ``embeddings``, [trials].

    Raises
    ------
    ValueError
        If a cohort row is zero or not finite, a score is not finite, the top
        cohort scores of an utterance are all equal, or ``top_n`` or the cohort
        is smaller than 2; else same as ``cosine_scores``.

    Example
    -------
    >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> cohort = torch.tensor([[0.0, 2.0], [5.0, 0.0]])
    >>> adaptive_s_norm(torch.tensor([0.9]), [0], [1], embeddings, cohort)
    tensor([0.8000])
    """
    _check_least("`block_size`", block_size, 1)
    unit, rows, enrol, test, cohort, top_n = checked_trials(
        scores, enrol, test, embeddings, cohort, top_n
    )
    means, stds = cohort_statistics(unit, cohort, top_n, block_size)
    check_spread(stds, unit, top_n, rows)
    dtype = torch.promote_types(scores.dtype, unit.dtype)
    scores = scores.to(means)
    normalised = (scores - means[enrol]) / stds[enrol]
    normalised += (scores - means[test]) / stds[test]
    return (normalised / 2).to(dtype)


@torch.no_grad()
def speaker_means(embeddings, speakers):
    """Averages each speaker's embeddings, as they are, into a cohort.

    WeSpeaker does not normalise their lengths first either. Summed in float64
    on the CPU: the same on every run and device.

    Arguments
    ---------
    embeddings : torch.Tensor
        One row per utterance, finite, [utterances, embedding].
    speakers : sequence
        Name of each utterance's speaker, [utterances].

    Returns
    -------
    means : torch.Tensor
        One row per speaker, [speakers, embedding].
    names : list
        The speakers, sorted, [speakers].

    Raises
    ------
    ValueError
        If there is no embedding, one is not finite, or the numbers differ.

    Example
    -------
    >>> speaker_means(torch.tensor([[2.0], [5.0], [4.0]]), ["b", "a", "b"])
    (tensor([[5.],
            [3.]]), ['a', 'b'])
    """
    embeddings = _embedding_rows("embeddings", embeddings)
    if not len(speakers) or len(speakers) != len(embeddings):
        raise ValueError(
            "`speakers` must name each of one or more utterances, got "
            f"{len(speakers)} names for {len(embeddings)} embeddings."
        )
    names = sorted(set(speakers))
    number = {name: i for i, name in enumerate(names)}
    index = torch.tensor([number[name] for name in speakers])
    sums = torch.zeros(len(names), embeddings.shape[1], dtype=torch.float64)
    for start in range(0, len(index), 65536):
        block = slice(start, start + 65536)
        sums.index_add_(0, index[block], embeddings[block].cpu().double())
    total = embeddings.sum(dim=1)
    rule = "`embeddings` must be finite"
    _check_each(total.isfinite(), total, rule, "rows", REPAIR)
    means = sums / index.bincount().unsqueeze(1)
    return means.to(embeddings), names


def checked_trials(scores, enrol, test, embeddings, cohort, top_n=None):
    """Checks what a normalisation is given; see ``adaptive_s_norm``.

    Arguments
    ---------
    scores : torch.Tensor
        Scores of the trials, [trials].
    enrol : torch.Tensor | sequence
        Row numbers, [trials].
    test : torch.Tensor | sequence
        Row numbers, [trials].
    embeddings : torch.Tensor
        Shape [utterances, embedding].
    cohort : torch.Tensor
        Shape [cohort, embedding].
    top_n : int
        Cohort rows wanted, all where None.

    Returns
    -------
    tuple
        Unit embeddings of the trials [used, embedding], their rows in
        ``embeddings`` [used], ``enrol`` and ``test`` as rows of these
        [trials], the cohort at unit length and ``top_n`` as a number.

    Raises
    ------
    ValueError
        Same as ``adaptive_s_norm``.
    """
    unit, rows, enrol, test = _trial_embeddings(embeddings, enrol, test)
    cohort = unit_length("cohort", _embedding_rows("cohort", cohort))
    if scores.shape != enrol.shape or cohort.shape[1] != unit.shape[1]:
        raise ValueError(
            f"`scores` must be [{len(enrol)}], one per trial, and `cohort` "
            f"[cohort, {unit.shape[1]}], as the embeddings, got "
            f"{list(scores.shape)} and {list(cohort.shape)}."
        )
    _check_each(scores.isfinite(), scores, "`scores` must be finite", "trials")
    top_n = len(cohort) if top_n is None else min(top_n, len(cohort))
    _check_least(f"`top_n` of {len(cohort)} cohort rows", top_n, 2)
    return unit, rows, enrol, test, cohort, top_n


def check_spread(stds, unit, top_n, rows):
    """Raises where a deviation of cohort scores is but rounding error.

    Arguments
    ---------
    stds : torch.Tensor
        Deviations, [any].
    unit : torch.Tensor
        The embeddings that were compared, for their precision.
    top_n : int
        Cohort scores that each is of.
    rows : torch.Tensor
        Row numbers that the error names, [any].

    Raises
    ------
    ValueError
        If one vanishes.
    """
    # Dividing by rounding error makes noise.
    spread = stds > 8 * torch.finfo(unit.dtype).eps
    rule = f"the deviation of the top {top_n} cohort scores must not vanish"
    remedy = "; drop duplicates from `cohort` or raise `top_n`"
    _check_each(spread, stds, rule, "rows", remedy, rows)


def _trial_embeddings(embeddings, enrol, test):
    """Unit embeddings of the trials, their rows, and the trials in these."""
    embeddings = _embedding_rows("embeddings", embeddings)
    enrol = _row_numbers("enrol", enrol, embeddings)
    test = _row_numbers("test", test, embeddings)
    if len(enrol) != len(test):
        raise ValueError(
            "`enrol` and `test` must be equally long, got "
            f"{len(enrol)} and {len(test)}."
        )
    used = embeddings.new_zeros(len(embeddings), dtype=torch.bool)
    used[enrol] = used[test] = True
    rows, position = used.nonzero().squeeze(1), used.cumsum(0) - 1
    unit = unit_length("embeddings", embeddings[rows], rows)
    return unit, rows, position[enrol], position[test]


def _embedding_rows(name, values):
    """Checks a matrix of embeddings and widens half precision."""
    if values.ndim != 2 or not values.is_floating_point():
        raise ValueError(
            f"`{name}` must be floating-point, [utterances, embedding], got "
            f"{values.dtype} of shape {list(values.shape)}."
        )
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _row_numbers(name, numbers, embeddings):
    """Row numbers as int64 on the device of the embeddings, checked."""
    numbers = torch.as_tensor(numbers)
    whole = not (numbers.is_floating_point() or numbers.dtype == torch.bool)
    if numbers.ndim != 1 or not (whole or not len(numbers)):
        raise ValueError(
            f"`{name}` must be whole row numbers, [trials], got "
            f"{numbers.dtype} of shape {list(numbers.shape)}."
        )
    numbers = numbers.to(embeddings.device, torch.int64)
    # Torch would take -1 for the last row.
    inside = (numbers >= 0) & (numbers < len(embeddings))
    rule = f"`{name}` must be row numbers in [0, {len(embeddings)})"
    _check_each(inside, numbers, rule, "trials")
    return numbers


def unit_length(name, values, rows=None):
    """Divides each row by its length.

    Arguments
    ---------
    name : str
        What errors call the values.
    values : torch.Tensor
        Shape [rows, embedding].
    rows : torch.Tensor
        Numbers by which errors name the rows, [rows]; their own where None.

    Returns
    -------
    torch.Tensor
        Shape [rows, embedding].

    Raises
    ------
    ValueError
        If a row is zero or not finite.

    Example
    -------
    >>> unit_length("embeddings", torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    # By the largest entry first: squares then neither overflow nor vanish.
    peak = values.abs().amax(dim=1)
    usable = (peak > 0) & (peak < math.inf)  # false where NaN
    rule = f"`{name}` must be finite and not all zero"
    _check_each(usable, peak, rule, "rows", REPAIR, rows)
    values = values / peak.unsqueeze(1)
    return values / values.norm(dim=1, keepdim=True)


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
        Same as in ``adaptive_s_norm``.

    Returns
    -------
    means : torch.Tensor
        float64, [rows].
    stds : torch.Tensor
        float64, the population's, [rows].
    """
    # float64: TF32 (on in SpeechBrain) and autocast leave it alone.
    cohort = cohort.double()
    if top_n == len(cohort):
        # All of it: the cosines' mean is that with the mean, and their spread
        # that of the triangular factor, so that none of them is computed.
        center = cohort.mean(dim=0)
        factor = torch.linalg.qr(cohort - center, mode="r").R.T
        factor = factor / math.sqrt(top_n)
        blocks = [block.double() for block in unit.split(65536)]
        means = [block @ center for block in blocks]
        stds = [(block @ factor).norm(dim=1) for block in blocks]
        return torch.cat(means), torch.cat(stds)
    means = unit.new_empty(len(unit), dtype=torch.float64)
    stds = torch.empty_like(means)
    block_size = min(block_size, 1 + MOST_COSINES // len(cohort))
    for start in range(0, len(unit), block_size):
        block = slice(start, start + block_size)
        cosines = unit[block].double() @ cohort.T  # [block, cohort]
        top = cosines.topk(top_n, dim=1, sorted=False).values
        stds[block], means[block] = torch.std_mean(top, 1, correction=0)
    return means, stds


def _check_least(name, value, least):
    """Raises where a number is too small."""
    if value < least:
        raise ValueError(f"{name} must be {least} or more, got {value}.")


def _check_each(holds, values, rule, places, remedy="", numbers=None):
    """Raises with the value and the numbers of the places that break a rule."""
    if holds.all():
        return
    wrong = (~holds).nonzero().squeeze(1)
    value = values[wrong[0]].item()
    wrong = wrong if numbers is None else numbers[wrong]
    listed = ", ".join(map(str, wrong[:5].tolist()))
    if len(wrong) > 5:
        listed += f" and {len(wrong) - 5} more"
    raise ValueError(f"{rule}, got {value} at {places} {listed}{remedy}.")
