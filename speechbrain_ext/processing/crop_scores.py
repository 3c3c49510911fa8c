"""Scores of trials from several crops of each utterance.

Chung et al., "In defence of metric learning for speaker recognition",
Interspeech 2020, https://arxiv.org/abs/2003.11982. Reference code:
``evaluateFromList`` of https://github.com/clovaai/voxceleb_trainer@f51bab8,
with ten crops of 400 frames. Difference: the trainer does not bring embeddings
of its prototypical loss to length 1.
"""

import torch

from speechbrain_ext.processing.cosine import trial_rows, unit_length


@torch.no_grad()
def crop_scores(embeddings, enrol, test, block_size=1024):
    """Scores trials by the distances between the crops of two utterances.

    The score is minus the mean Euclidean distance over all pairs of a crop of
    one utterance and a crop of the other, their embeddings at length 1.

    Arguments
    ---------
    embeddings : torch.Tensor
        Embeddings of the crops of each utterance, floating-point, [utterances,
        crops, embedding].
    enrol : torch.Tensor | sequence
        Row number of each trial's enrolment utterance, [trials].
    test : torch.Tensor | sequence
        Row number of each trial's test utterance, [trials].
    block_size : int
        Trials scored at a time; bounds the memory, not the result.

    Returns
    -------
    scores : torch.Tensor
        Scores in [-2, 0], on the device of ``embeddings``, [trials].

    Raises
    ------
    ValueError
        If a row number is out of range, a trial's embedding is zero or not
        finite, or a shape or ``block_size`` is wrong.

    Example
    -------
    >>> crops = torch.tensor(
    ...     [[[1.0, 0.0], [2.0, 0.0]], [[0.0, 3.0], [1.0, 0.0]]]
    ... )
    >>> crop_scores(crops, enrol=[0, 0], test=[0, 1])
    tensor([-0.0000, -0.7071])
    """
    if block_size < 1:
        raise ValueError(f"`block_size` must be 1 or more, got {block_size}.")
    shape = None if embeddings is None else list(embeddings.shape)
    if shape is None or len(shape) != 3 or 0 in shape[1:]:
        raise ValueError(
            "`embeddings` must be [utterances, crops, embedding] for scores of "
            f"crops, got {shape}."
        )
    enrol, test = trial_rows(embeddings, enrol, test)

    def unit(rows):
        crops = embeddings[rows]  # [trials, crops, embedding]
        numbers = rows.repeat_interleave(crops.shape[1])
        flat = unit_length("embeddings", crops.flatten(0, 1), numbers)
        return flat.unflatten(0, crops.shape[:2])

    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    scores = embeddings.new_empty(len(enrol), dtype=dtype)
    for start in range(0, len(scores), block_size):
        block = slice(start, start + block_size)
        distances = torch.cdist(
            unit(enrol[block]),
            unit(test[block]),
            # matrix products would be inexact for nearly equal crops
            compute_mode="donot_use_mm_for_euclid_dist",
        )  # [trials, crops, crops]
        scores[block] = -distances.mean(dim=(1, 2))
    return scores
