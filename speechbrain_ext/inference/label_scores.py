"""All scores that say how suspicious the labels of a manifest are."""

import copy
import pathlib

import pandas as pd

from speechbrain_ext.inference.loading import SPEED
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.processing.label_error_detection import (
    label_cosines,
    label_losses,
    label_margins,
    mean_classifier,
    other_session_cosines,
    sub_center_scores,
)
from speechbrain_ext.utils.checkpoints import (
    AtomicCheckpointer,
    checkpoint_order,
)
from speechbrain_ext.utils.tensors import read_tensors

# What each score is. All but the loss are low where a label is suspicious.
SCORES = {
    "cosine": "cosine with the label's class",
    "margin": "cosine with the label's class minus the best other class",
    "session": "cosine with the label's mean over other sessions",
    "sub_center": "cosine with the dominant sub-center of the label",
    "sub_center_share": "share of the label that has the same sub-center",
    "loss": "cross-entropy, mean over the checkpoints",
}


def label_scores(encoder, embeddings, manifest):
    """Scores the label of each utterance in every way that the encoder allows.

    The sub-center scores need a classifier with sub-centers, and ``session``
    needs a label with two sessions. The session of an utterance is the part of
    its ID before the last slash. If the encoder has no classifier that gives
    cosines, the mean embeddings of the labels are the classes.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder.
    embeddings : torch.Tensor
        Of the manifest's utterances, on the CPU, [utterances, embedding].
    manifest : pandas.DataFrame
        Columns ID and spk_id.

    Returns
    -------
    scores : pandas.DataFrame
        One row per utterance, a column for each score in ``SCORES`` but the
        loss, and ``best_other``: the label that fits best among the others.
        An utterance whose label has no other session gets the median of
        ``session``. The sessions are those of IDs
        ``speaker/session/utterance``; with other IDs this score is missing.
    single_session : int
        Number of these utterances.

    Raises
    ------
    ValueError
        If the encoder's classifier does not know a label, or its label map
        does not fit the classifier.
    """
    head, classes, names = _head(encoder, embeddings, manifest["spk_id"])
    scores = pd.DataFrame(index=manifest.index)
    scores["cosine"] = label_cosines(embeddings, classes, head).numpy()
    if len(names) > 1:
        margins, others = label_margins(embeddings, classes, head)
        scores["margin"] = margins.numpy()
        scores["best_other"] = [names[other] for other in others.tolist()]
    sessions = manifest["ID"].str.rpartition("/")[0]
    session = pd.Series(float("nan"), index=manifest.index)
    if sessions.str.contains("/").all():  # other IDs do not name their session
        session[:] = other_session_cosines(
            embeddings, manifest["spk_id"].tolist(), sessions.tolist()
        ).numpy()
    if session.notna().any():
        scores["session"] = session.fillna(session.median())
    if head.sub_centers > 1:
        shares, cosines = sub_center_scores(embeddings, classes, head)
        scores["sub_center"] = cosines.numpy()
        scores["sub_center_share"] = shares.numpy()
    return scores, int(session.isna().sum())


def epoch_losses(encoder, checkpoints_folder, manifest, embed):
    """Loss of each utterance at each checkpoint of a training.

    A wrong label is learnt late, so its loss stays high for longer. A run
    keeps the checkpoints of its last epochs: two, or ``average_checkpoints``.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder that was trained. Its weights are restored at the end.
    checkpoints_folder : str | pathlib.Path
        The ``save`` folder of the run.
    manifest : pandas.DataFrame
        Column spk_id.
    embed : callable
        ``(encoder, name)`` -> embeddings of the manifest's utterances,
        [utterances, embedding]; name: path of the checkpoint.

    Returns
    -------
    pandas.DataFrame
        One row per utterance, a column ``loss_epoch_N`` for each checkpoint,
        and ``loss``, their mean; see ``label_losses``.

    Raises
    ------
    ValueError
        If the folder has no checkpoint of a whole epoch, or one is of another
        network.
    """
    losses = pd.DataFrame(index=manifest.index)
    kept = copy.deepcopy(encoder.mods.state_dict())
    try:
        for checkpoint in _checkpoints(checkpoints_folder):
            _load(encoder, checkpoint)
            embeddings = embed(encoder, str(checkpoint.path.resolve()))
            head, classes, _ = _head(encoder, embeddings, manifest["spk_id"])
            found = label_losses(embeddings, classes, head).numpy()
            losses[f"loss_epoch_{checkpoint.meta['epoch']}"] = found
    finally:
        encoder.mods.load_state_dict(kept)
    losses["loss"] = losses.mean(axis=1)
    return losses


def suspicion_order(name, values):
    """Turns a score so that low values are suspicious.

    Arguments
    ---------
    name : str
        A key of ``SCORES``.
    values : pandas.Series
        The scores.

    Returns
    -------
    pandas.Series
        The scores, or their negatives.

    Example
    -------
    >>> suspicion_order("loss", pd.Series([0.5, 2.0])).tolist()
    [-0.5, -2.0]
    """
    return -values if name == "loss" else values


def _head(encoder, embeddings, labels):
    """A classifier, each utterance's class, and the names of the classes."""
    labels, head = labels.tolist(), encoder.mods.classifier
    if isinstance(head, CosineClassifier):
        head, names = _at_normal_speed(encoder, head)
        unknown = sorted(set(labels) - set(names))
        if unknown:
            raise ValueError(
                f"The encoder was not trained on {len(unknown)} of the labels, "
                f"among them {unknown[:3]}; pass the manifest that it was "
                "trained on (save/train_noisy.csv)."
            )
    else:  # the mean embedding of a label stands for its class
        head, names = mean_classifier(embeddings, labels)
    number = {name: place for place, name in enumerate(names)}
    return head, [number[name] for name in labels], names


def _at_normal_speed(encoder, head):
    """A classifier without the classes of other speeds, on the CPU."""
    known = getattr(encoder.hparams, "label_encoder", None)
    known = getattr(known, "lab2ind", {})
    size = head.weight.shape[0] // head.sub_centers
    if max(known.values(), default=0) >= size:
        raise ValueError(
            f"The label map of the encoder has {len(known)} speakers, but its "
            f"classifier {size} classes; they are from two different "
            "trainings. Export the encoder again."
        )
    names = sorted(name for name in known if not SPEED.search(name))
    if not names:
        raise ValueError(
            "The encoder has a classifier but no speakers in its label map; "
            "export it again."
        )
    weight = head.weight.detach().cpu().unflatten(0, (size, -1))
    plain = CosineClassifier(weight.shape[2], len(names), head.sub_centers)
    chosen = weight[[known[name] for name in names]].flatten(0, 1)
    plain.weight.data.copy_(chosen)
    return plain.requires_grad_(False), names


def _checkpoints(folder):
    """The checkpoints of whole epochs, the first epoch first."""
    found = []
    if pathlib.Path(folder).is_dir():
        found = AtomicCheckpointer(folder).find_checkpoints(
            importance_key=checkpoint_order,
            ckpt_predicate=lambda one: (
                one.meta.get("end-of-epoch")
                and "epoch" in one.meta
                and "embedding_model" in one.paramfiles
            ),
        )
    if not found:
        raise ValueError(
            f"{folder} has no checkpoint of a whole epoch; pass the save "
            "folder of the run that trained the encoder."
        )
    return found[::-1]


def _load(encoder, checkpoint):
    """Loads a checkpoint's encoder and head."""
    for name in ("embedding_model", "classifier"):
        module, path = encoder.mods[name], checkpoint.paramfiles.get(name)
        if path is None or not module.state_dict():
            continue
        try:
            module.load_state_dict(read_tensors(path))
        except RuntimeError as error:
            raise ValueError(
                f"{path} is of another network than the encoder; pass the "
                "save folder of the run that trained it."
            ) from error
