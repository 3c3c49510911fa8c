"""Cosine scores of trials, and means of embeddings.

float32 and float64 are kept; half precision is widened to float32.
"""

import math

import torch

MOST_COSINES = 2**24  # computed at a time; 128 MiB of float64
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
    if block_size < 1:
        raise ValueError(f"`block_size` must be 1 or more, got {block_size}.")
    unit, _, enrol, test = unit_trials(embeddings, enrol, test)
    scores = unit.new_empty(len(enrol))
    for start in range(0, len(scores), block_size):
        block = slice(start, start + block_size)
        scores[block] = (unit[enrol[block]] * unit[test[block]]).sum(dim=1)
    return scores.clamp_(-1.0, 1.0)


@torch.no_grad()
def speaker_means(embeddings, speakers):
    """Averages each speaker's embeddings into one row of a cohort.

    The embeddings are not brought to length 1 first, as in WeSpeaker. Sums are
    float64 on the CPU, so every run and device gives the same means.

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
    check_each(total.isfinite(), total, rule, "rows", REPAIR)
    means = sums / index.bincount().unsqueeze(1)
    return means.to(embeddings), names


@torch.no_grad()
def enrolment_embeddings(embeddings, models):
    """The embedding of each speaker enrolled with several utterances.

    It is the mean of the utterances' embeddings, each brought to length 1
    first, so that none outweighs the others, times the mean of their lengths,
    so that a training mean can be subtracted from it. Its cosine with a test
    utterance is the mean of the utterances' cosines, times one factor per
    model.

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
    tensor([[1.7500, 1.7500],
            [0.0000, 5.0000]])
    """
    for number, rows in enumerate(models):
        if not len(rows):
            raise ValueError(
                "`models` must have one utterance or more each, got none at "
                f"{number}."
            )
    rows = torch.cat([torch.as_tensor(rows) for rows in models])
    which = torch.repeat_interleave(torch.tensor([len(r) for r in models]))
    unit = unit_length("embeddings", embeddings[rows], rows)
    lengths = embeddings[rows].double().norm(dim=1, keepdim=True)
    counts = which.bincount().to(lengths).unsqueeze(1)

    def mean(values):
        sums = values.new_zeros(len(models), values.shape[1])
        return sums.index_add_(0, which.to(sums.device), values) / counts

    return (mean(unit.double()) * mean(lengths)).to(unit.dtype)


def unit_trials(embeddings, enrol, test):
    """Embeddings of the utterances in some trials, at length 1.

    Arguments
    ---------
    embeddings : torch.Tensor
        One row per utterance, [utterances, embedding].
    enrol : torch.Tensor | sequence
        Row number of each trial's enrolment utterance, [trials].
    test : torch.Tensor | sequence
        Row number of each trial's test utterance, [trials].

    Returns
    -------
    unit : torch.Tensor
        Embeddings of the utterances that occur, [used, embedding].
    rows : torch.Tensor
        Their row numbers in ``embeddings``, [used].
    enrol : torch.Tensor
        ``enrol`` as row numbers of ``unit``, [trials].
    test : torch.Tensor
        ``test`` as row numbers of ``unit``, [trials].

    Raises
    ------
    ValueError
        If a row number is out of range, an embedding that is used is zero or
        not finite, or a shape is wrong.

    Example
    -------
    >>> unit_trials(torch.eye(3), [2], [0])[1:]
    (tensor([0, 2]), tensor([1]), tensor([0]))
    """
    embeddings = _embedding_rows("embeddings", embeddings)
    enrol, test = trial_rows(embeddings, enrol, test)
    used = embeddings.new_zeros(len(embeddings), dtype=torch.bool)
    used[enrol] = used[test] = True
    rows, position = used.nonzero().squeeze(1), used.cumsum(0) - 1
    unit = unit_length("embeddings", embeddings[rows], rows)
    return unit, rows, position[enrol], position[test]


def trial_rows(embeddings, enrol, test):
    """Checks the row numbers of trials.

    Arguments
    ---------
    embeddings : torch.Tensor
        One row per utterance, [utterances, ...].
    enrol : torch.Tensor | sequence
        Row number of each trial's enrolment utterance, [trials].
    test : torch.Tensor | sequence
        Row number of each trial's test utterance, [trials].

    Returns
    -------
    enrol : torch.Tensor
        int64, on the device of the embeddings, [trials].
    test : torch.Tensor
        int64, on the device of the embeddings, [trials].

    Raises
    ------
    ValueError
        If a row number is out of range, or a shape is wrong.

    Example
    -------
    >>> trial_rows(torch.eye(3), [2, 0], [0, 1])
    (tensor([2, 0]), tensor([0, 1]))
    """
    enrol = _row_numbers("enrol", enrol, embeddings)
    test = _row_numbers("test", test, embeddings)
    if len(enrol) != len(test):
        raise ValueError(
            "`enrol` and `test` must be equally long, got "
            f"{len(enrol)} and {len(test)}."
        )
    return enrol, test


def unit_length(name, values, rows=None):
    """Divides each embedding by its length.

    Arguments
    ---------
    name : str
        What errors call the values.
    values : torch.Tensor
        Floating-point, [rows, embedding].
    rows : torch.Tensor
        Numbers by which errors name the rows, [rows]; None counts from 0.

    Returns
    -------
    torch.Tensor
        Shape [rows, embedding].

    Raises
    ------
    ValueError
        If a row is zero or not finite, or the shape or type is wrong.

    Example
    -------
    >>> unit_length("embeddings", torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    values = _embedding_rows(name, values)
    # By the largest entry first: squares then neither overflow nor vanish.
    peak = values.abs().amax(dim=1)
    usable = (peak > 0) & (peak < math.inf)  # false where NaN
    rule = f"`{name}` must be finite and not all zero"
    check_each(usable, peak, rule, "rows", REPAIR, rows)
    values = values / peak.unsqueeze(1)
    return values / values.norm(dim=1, keepdim=True)


def check_each(holds, values, rule, places, remedy="", numbers=None):
    """Raises where a rule does not hold for every value.

    Arguments
    ---------
    holds : torch.Tensor
        Whether the rule holds, [values].
    values : torch.Tensor
        The error names the first that breaks the rule, [values].
    rule : str
        Beginning of the error.
    places : str
        What the numbers in the error count, for example ``rows``.
    remedy : str
        End of the error.
    numbers : torch.Tensor
        The number of each value, [values]; None counts from 0.

    Raises
    ------
    ValueError
        If the rule is broken.

    Example
    -------
    >>> values = torch.tensor([1.0, -2.0])
    >>> check_each(values > 0, values, "`x` must be positive", "rows")
    Traceback (most recent call last):
    ValueError: `x` must be positive, got -2.0 at rows 1.
    """
    if holds.all():
        return
    wrong = (~holds).nonzero().squeeze(1)
    value = values[wrong[0]].item()
    if numbers is not None:  # they may lie elsewhere than the values
        wrong = numbers[wrong.to(numbers.device)]
    listed = ", ".join(map(str, wrong[:5].tolist()))
    if len(wrong) > 5:
        listed += f" and {len(wrong) - 5} more"
    raise ValueError(f"{rule}, got {value} at {places} {listed}{remedy}.")


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
    check_each(inside, numbers, rule, "trials")
    return numbers
