"""Small runs of label filters on random embeddings."""

import functools

import torch

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import AAMSoftmax
from speechbrain_ext.nnet.sharded import sharded
from speechbrain_ext.processing.class_scores import ClassScores
from speechbrain_ext.processing.label_filters import make_label_filter
from speechbrain_ext.utils.distributed import rank

UTTERANCES, CLASSES, BATCH, STEPS, SUB_CENTERS = 12, 5, 4, 3, 3
OPTIONS = {"ORGate": {"top_k": 2}}


def head_of(split=False):
    """A head with sub-centers, the same on any number of processes."""
    torch.manual_seed(8)
    make = functools.partial(
        CosineClassifier, input_size=6, sub_centers=SUB_CENTERS
    )
    return (sharded(make) if split else make)(out_neurons=CLASSES)


def drawn(epochs):
    """Embeddings, labels and rows of each batch, by (epoch, step)."""
    rng = torch.Generator().manual_seed(4)
    label_of = torch.randint(CLASSES, (UTTERANCES,), generator=rng)
    for epoch in range(epochs):
        order = torch.randperm(UTTERANCES, generator=rng)
        for step in range(STEPS):
            rows = order[BATCH * step : BATCH * (step + 1)]
            x = torch.randn(BATCH, 1, 6, generator=rng)
            yield epoch, step, x, label_of[rows].unsqueeze(1), rows


def filtered(name, warm_up=1.0, epochs=4, split=None, stop=None, state=None):
    """Weights and labels of every batch, and the state at the end.

    ``split`` is None, "head" or "batch", for one process and two kinds of
    two. ``stop`` ends after some batches, and ``state`` goes on from there.
    """
    head = head_of(split == "head")
    loss = AAMSoftmax()
    loss.shard = getattr(head, "shard", None)
    made = make_label_filter(
        {"kind": name, "warm_up": warm_up, **OPTIONS.get(name, {})}
    )
    made.start(UTTERANCES, CLASSES, loss, head)
    if state is not None:
        made.load_state_dict(state)
    said = []
    for number, (epoch, step, x, labels, rows) in enumerate(drawn(epochs)):
        if number == stop:
            break
        if state is not None and number < 5:
            continue
        if split:
            half = slice(2 * rank(), 2 * rank() + 2)
            x, labels, rows = x[half], labels[half], rows[half]
        scores = ClassScores(head(x), labels, loss.shard, head.sub_cosines)
        weights, new = made(scores, rows, epoch + step / STEPS)
        new = labels.squeeze(1) if new is None else new
        said.append((rows, weights, new))
        if step == STEPS - 1:
            made.end_epoch()
    return said, made.state_dict()
