"""Label filters: training that leaves out labels which are probably wrong.

A filter looks at the cosines of each batch before the loss. It gives each
utterance a weight, and may give it another label. During a warm-up all weights
are 1. An utterance of weight 0 still passes through the encoder, so it is in
the batch statistics, and it can come back later. A recipe names its filter by
one key:

    label_filter: {kind: ORGate, top_k: 10, warm_up: 5}

The state of a filter, a few numbers per utterance, is on every process and in
the checkpoints.
"""

import inspect
import math

import torch

from speechbrain_ext.processing.filter_base import LabelFilter, check_number
from speechbrain_ext.processing.loss_gates import LabelCorrection, LossGate


class ORGate(LabelFilter):
    """A label counts once it was among the top k of the prediction.

    Fang, He, Ma, Guo and Li, "Robust Training for Speaker Verification against
    Noisy Labels", Interspeech 2023, https://arxiv.org/abs/2211.12080. Reference
    code: PunkMale/OR-Gate@a4f4a00 main.py. The gate is the OR over all earlier
    draws of the utterance, those of the warm-up included. Published: k = 90 of
    1,211 classes and a warm-up of 5 of 80 epochs. Difference: the code makes
    batches of the chosen utterances; here the others have weight 0.

    The released code ranks the outputs of its loss, AM-softmax, which has
    subtracted its margin from the cosine of the given label. So the present
    margin of the trained loss is subtracted here, whatever the loss. Nothing is
    subtracted for softmax, or for type M of SphereFace2, which multiplies.

    Arguments
    ---------
    top_k : int
        Number of classes with the highest outputs, below the number of
        classes. If wrong labels can only be among some of the classes, choose
        it for the number of these. With ``speeds`` each speed has classes of
        its own.
    warm_up : float
        Epochs at the beginning in which all weights are 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Example
    -------
    >>> ORGate(top_k=0)
    Traceback (most recent call last):
    ValueError: `top_k` of the label filter must be 1 or more, got 0.
    """

    def __init__(self, top_k=90, warm_up=5):
        super().__init__(warm_up)
        check_number("top_k", top_k, 1, math.inf)
        if top_k % 1 != 0:
            raise ValueError(
                "`top_k` of the label filter must be a whole number of "
                f"classes, got {top_k}."
            )
        self.top_k = top_k

    def start(self, utterances, classes, loss, classifier):
        """Makes the state.

        Overrides
        ``speechbrain_ext.processing.filter_base.LabelFilter.start``; see there.
        """
        super().start(utterances, classes, loss, classifier)
        if self.top_k >= classes:
            raise ValueError(
                "`top_k` of the label filter must be below the number of "
                f"classes, {classes}, got {self.top_k}; every label would "
                "count."
            )
        multiplies = getattr(loss, "margin_type", None) == "M"
        subtracts = hasattr(loss, "margin") and not multiplies
        self.margin = lambda: float(loss.margin) if subtracts else 0.0
        self.register_buffer("counted", torch.zeros(utterances))

    def _judge(self, scores, rows):
        among = scores.place(self.margin()) < self.top_k
        return self.counted[rows], None, [among]

    def _remember(self, rows, *values):
        self.counted.scatter_reduce_(0, rows, values[0].float(), "amax")


class SubCenterDrop(LabelFilter):
    """A label counts if the utterance is near its class's main sub-center.

    Deng, Guo, Liu, Gong and Zafeiriou, "Sub-center ArcFace: Boosting Face
    Recognition by Large-scale Noisy Web Faces", ECCV 2020. Reference code:
    deepinsight/insightface@205a37e recognition/SubCenter-ArcFace/drop.py. The
    dominant sub-center of a class is the nearest one of most of its
    utterances. An utterance whose angle to it is 75 degrees or more is left
    out, as published. Difference: the authors train, drop, and train again
    with one center per class. Here each epoch drops by the dominant sub-centers
    of the epoch before, so the warm-up is this project's choice.

    It needs ``CosineClassifier(sub_centers=3)``, for example the recipe
    resnet_aam_subcenter.yaml.

    Arguments
    ---------
    angle : float
        Degrees in [0, 180]; None leaves out the utterances whose nearest
        sub-center is another one.
    warm_up : float
        Epochs at the beginning in which all weights are 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Example
    -------
    >>> SubCenterDrop(angle=-75)
    Traceback (most recent call last):
    ValueError: `angle` of the label filter must be in [0, 180], got -75.
    """

    def __init__(self, angle=75.0, warm_up=5):
        super().__init__(warm_up)
        if angle is not None:
            check_number("angle", angle, 0, 180)
        self.angle = angle

    def check(self, loss, classifier):
        """Raises if there are no sub-centers.

        Overrides
        ``speechbrain_ext.processing.filter_base.LabelFilter.check``; see there.
        """
        super().check(loss, classifier)
        if _sub_centers(classifier) < 2:
            raise ValueError(
                "The label filter SubCenterDrop needs a classifier with "
                "`sub_centers` of 2 or more; take a recipe such as "
                "resnet_aam_subcenter.yaml, or another filter."
            )

    def start(self, utterances, classes, loss, classifier):
        """Makes the state.

        Overrides
        ``speechbrain_ext.processing.filter_base.LabelFilter.start``; see there.
        """
        super().start(utterances, classes, loss, classifier)
        classifier.keeps_sub_cosines = True
        centers = _sub_centers(classifier)
        self.register_buffer("nearest", torch.zeros(classes, centers))
        # -1: the class was not drawn yet, and keeps all of its utterances
        nothing = torch.full((classes,), -1, dtype=torch.int64)
        self.register_buffer("dominant", nothing)

    def _judge(self, scores, rows):
        cosines = scores.label_sub_cosines()
        nearest = cosines.argmax(dim=1)
        dominant = self.dominant[scores.labels]
        if self.angle is None:
            near = nearest == dominant
        else:
            place = dominant.clamp(min=0).unsqueeze(1)
            found = cosines.gather(1, place).squeeze(1)
            near = found > math.cos(math.radians(self.angle))
        weights = (near | (dominant < 0)).to(cosines.dtype)
        return weights, None, [scores.labels, nearest]

    def _remember(self, rows, *values):
        labels, nearest = (value.long() for value in values)
        ones = torch.ones_like(labels, dtype=torch.float32)
        self.nearest.index_put_((labels, nearest), ones, accumulate=True)

    def _end_epoch(self):
        drawn = self.nearest.sum(dim=1) > 0
        most = self.nearest.argmax(dim=1)
        self.dominant.copy_(torch.where(drawn, most, self.dominant))
        self.nearest.zero_()


def _sub_centers(classifier):
    """Sub-centers of a classifier, or of one that ``!name:`` will make."""
    arguments = getattr(classifier, "keywords", {})
    shard = getattr(classifier, "shard", None)
    if shard is not None:
        return shard.rows_per_class
    found = getattr(classifier, "sub_centers", 1)
    return arguments.get("sub_centers", found)


KINDS = ORGate, LossGate, LabelCorrection, SubCenterDrop
FILTERS = {kind.__name__: kind for kind in KINDS}


def make_label_filter(options):
    """Makes the label filter of a recipe.

    Arguments
    ---------
    options : dict
        ``kind``, the name of a filter, and its arguments. None for no filter.
        A ``LabelFilter``, such as one's own by ``!new:``, is returned as it
        is.

    Returns
    -------
    LabelFilter
        The filter, or None.

    Raises
    ------
    ValueError
        If there is no such filter, or an argument is unknown or out of range.

    Example
    -------
    >>> make_label_filter({"kind": "ORGate", "top_k": 10}).top_k
    10
    >>> make_label_filter({"kind": "OrGate"})
    Traceback (most recent call last):
    ValueError: `kind` of `label_filter` must be one of ORGate, ...
    """
    if options is None or isinstance(options, LabelFilter):
        return options
    if not isinstance(options, dict) or "kind" not in options:
        raise ValueError(
            "`label_filter` must be a mapping with a kind, such as {kind: "
            f"ORGate, top_k: 10}}, got {options!r}."
        )
    options = dict(options)
    name = options.pop("kind")
    if not isinstance(name, str) or name not in FILTERS:
        raise ValueError(
            f"`kind` of `label_filter` must be one of {', '.join(FILTERS)}, "
            f"got {name!r}."
        )
    known = list(inspect.signature(FILTERS[name]).parameters)
    for key in options:
        if key not in known:
            raise ValueError(
                f"`label_filter` has an unknown option {key!r}; {name} takes "
                f"{', '.join(known)}."
            )
    return FILTERS[name](**options)


def check_label_filter(options, loss, classifier):
    """Raises if the label filter of a recipe cannot work.

    Arguments
    ---------
    options : dict
        The filter, see ``make_label_filter``.
    loss : object
        The loss, its class, or a functools.partial of the class.
    classifier : object
        The classifier, likewise.

    Raises
    ------
    ValueError
        If an option is not valid, or the filter does not fit the loss or the
        classifier.

    Example
    -------
    >>> from speechbrain_ext.nnet.losses import GE2E
    >>> check_label_filter({"kind": "ORGate"}, GE2E(), torch.nn.Identity())
    Traceback (most recent call last):
    ValueError: `label_filter` needs the outputs of all classes, which the \
metric loss GE2E does not have; ...
    """
    made = make_label_filter(options)
    if made is not None:
        made.check(loss, classifier)
