"""SphereFace2: binary classification of every class."""

import math

import torch
from speechbrain.utils.logger import get_logger
from torch.nn.functional import logsigmoid

from speechbrain_ext.nnet.losses.angles import (
    check_angle,
    cos_minus_margin,
    cos_plus_margin,
)
from speechbrain_ext.nnet.losses.base import ClassificationLoss, transformed
from speechbrain_ext.nnet.losses.one_vs_all import (
    compiled_negatives,
    gradient_memory,
    negatives_in_place,
)
from speechbrain_ext.utils.devices import compiler_found
from speechbrain_ext.utils.distributed import all_reduce_sum, replicated

logger = get_logger(__name__)

WORTH_COMPILING = 2**20  # cosines in a batch
# Batch sizes that are compiled, each for some seconds. From the ninth on,
# torch.compile would compute without its compiler, and much slower.
COMPILED_SIZES = 4


class SphereFace2(ClassificationLoss):
    """Binary classification of every class, in both published forms.

    With the cosine c_i to class i, the true class y and
    g(z) = 2 ((z + 1) / 2) ** t - 1, the mean over the batch of

        w (lambda * softplus(-z_y) + (1 - lambda) * sum_{i != y} softplus(z_i))

    ``form="speaker"`` (Han, Chen, Qian, "Exploring Binary Classification Loss
    for Speaker Verification", ICASSP 2023, https://arxiv.org/abs/2307.08205):

        C: z_y = s (g(c_y) - m) + b            z_i = s (g(c_i) + m) + b
        A: z_y = s g(cos(theta_y + m)) + b     z_i = s g(cos(theta_i - m)) + b

    The weight w is 1, the gradient flows through g and the margin, and the
    bias b, one learnable number, starts at 0. Reference code:
    Hunterhuan/sphereface2_speaker_verification@b9edada projections.py.

    ``form="face"`` (Wen et al., "SphereFace2: Binary Classification is All
    You Need for Deep Face Recognition", ICLR 2022,
    https://arxiv.org/abs/2108.01513): C as above, and

        A: z_y = s g(cos(min(pi, theta_y + m))) + b     z_i = s g(c_i) + b
        M: z_y = s g(cos(min(pi, m theta_y))) + b       z_i = s g(c_i) + b

    The weight w is 1/s. The gradient ignores g and the margin (dz/dc = s).
    b starts where the gradients of positives and negatives balance if all
    angles are right angles. Reference code: ydwen/opensphere@fac2e9c
    model/head/sphereface2*.py, which multiplies the loss by 10 to 50 so that
    the learning rates of other losses can be used.

    Differences from both: softplus replaces log(1 + exp), which overflows,
    and the slope stays finite at cosines of 1 and -1. One pass computes loss
    and gradient, so there is no second derivative, except through torch.func.

    The bias is trained and saved only if a recipe lists the loss under
    ``modules:`` and under the checkpointer's ``recoverables:``.

    Arguments
    ---------
    margin_type : str
        "C" (margin on the cosine), "A" (added to the angle) or "M" (times
        the angle; in the face form only).
    margin : float
        m: a difference of similarities in [0, 2) for C, an angle in
        [0, pi/2) radians for A, a factor in [1, 4] for M. Published: 0.2 (C)
        and 0.15 (A) for speakers; 0.4 (C), 0.5 (A) and 1.7 (M) for faces.
    scale : float
        s, positive. Published: 32 for speakers, 40 for faces.
    positive_weight : float
        lambda in (0, 1), the weight of the true class.
    exponent : float
        t, at least 1: how far g spreads the similarities.
    form : str
        "speaker" or "face".
    out_neurons : int
        Number of classes, which the bias of the face form depends on. A
        recipe that names the loss by ``!name:`` gets it from the data.
    loss_weight : float
        Factor on the loss, positive.
    compile : bool
        Whether torch.compile fuses the pass over all classes. This needs a
        C++ compiler (on a GPU, Triton) and some seconds at the first batch.
        None means yes if a batch has a million cosines or more and a compiler
        is found. Only the first four batch sizes are compiled.

    Raises
    ------
    ValueError
        If an argument is outside its range or a shape does not fit.

    Example
    -------
    >>> loss = SphereFace2(margin_type="C", margin=0.2)
    >>> cosines = torch.tensor([[[0.9, 0.1]], [[-0.2, 0.8]]])
    >>> loss(cosines, torch.tensor([[0], [1]])).shape
    torch.Size([])
    >>> face = SphereFace2("C", 0.4, 40.0, form="face", out_neurons=8631)
    >>> round(face.bias.item(), 3)
    5.785
    """

    def __init__(
        self,
        margin_type="C",
        margin=0.2,
        scale=32.0,
        positive_weight=0.7,
        exponent=3,
        form="speaker",
        out_neurons=None,
        loss_weight=1.0,
        compile=None,
    ):
        super().__init__()
        if form not in ("speaker", "face"):
            raise ValueError(
                f"`form` must be 'speaker' or 'face', got {form!r}."
            )
        if margin_type not in ("C", "A", "M"):
            raise ValueError(
                f"`margin_type` must be 'C', 'A' or 'M', got {margin_type!r}."
            )
        if margin_type == "M" and form == "speaker":
            raise ValueError(
                "`margin_type` 'M' exists in the face form only; "
                "pass form='face' with it."
            )
        if not scale > 0:
            raise ValueError(f"`scale` must be positive, got {scale}.")
        if not 0 < positive_weight < 1:
            raise ValueError(
                f"`positive_weight` must be in (0, 1), got {positive_weight}."
            )
        if not exponent >= 1:
            raise ValueError(f"`exponent` must be at least 1, got {exponent}.")
        if not loss_weight > 0:
            raise ValueError(
                f"`loss_weight` must be positive, got {loss_weight}."
            )
        if form == "face" and (out_neurons is None or out_neurons < 2):
            raise ValueError(
                "`out_neurons` must be the number of classes, 2 or more, for "
                f"the face form, got {out_neurons}; in a recipe, name the "
                "loss by !name: and the number is filled in."
            )
        self.margin_type = margin_type
        self.scale = scale
        self.positive_weight = positive_weight
        self.exponent = exponent
        self.form = form
        self.loss_weight = loss_weight
        self.compile_pass = compile
        self.compiled_sizes = set()
        self.margin = margin
        self.bias = torch.nn.Parameter(torch.zeros(1))
        if form == "face":
            self.bias.data.fill_(self._balancing_bias(out_neurons))

    @property
    def margin(self):
        """The current margin, in the unit of ``margin_type``."""
        return self._margin

    @margin.setter
    def margin(self, margin):
        if self.margin_type == "A":
            check_angle(margin)
        elif self.margin_type == "M" and not 1 <= margin <= 4:
            raise ValueError(
                "`margin` must be a factor on the angle in [1, 4], "
                f"got {margin}; 1 is no margin."
            )
        elif self.margin_type == "C" and not 0 <= margin < 2:
            raise ValueError(
                "`margin` must be a difference of similarities in [0, 2), "
                f"got {margin}."
            )
        self._margin = margin

    def _loss(self, cosines, targets, shares=None):
        if transformed():
            return self._by_autograd(cosines, targets, shares)
        rows = torch.arange(len(targets), device=targets.device)
        columns, bias = targets.squeeze(1), self.bias.to(cosines.dtype)
        places = targets, rows, columns
        return _OneVsAll.apply(cosines, bias, *places, self, shares)

    def _shard_loss(self, cosines, targets, rows, columns, shares=None):
        # binary classifiers: the loss is the sum of the classes' losses
        bias = replicated(self.bias.to(cosines.dtype))
        places = targets, rows, columns
        part = _OneVsAll.apply(cosines, bias, *places, self, shares)
        return all_reduce_sum(part)

    def _by_autograd(self, cosines, targets, shares):
        """The loss in operations that torch.func can transform; slower."""
        negative = cosines
        if self.margin_type == "A" and self.form == "speaker":
            negative = cos_minus_margin(cosines, self.margin)
        negative = self.scale * self._similarity(negative)
        if self.margin_type == "C":
            negative = negative + self.scale * self.margin
        classes = torch.arange(cosines.shape[1], device=cosines.device)
        own = classes == targets
        logits = torch.where(own, self._positive_logits(cosines), negative)
        weight = self._weight(cosines, shares)
        if self.form == "face":  # its slope is the scale
            straight = self.scale * cosines
            logits = straight + (logits - straight).detach()
        logits = logits + self.bias.to(cosines.dtype)
        terms = logsigmoid(torch.where(own, logits, -logits))
        share = self.positive_weight
        terms = torch.where(own, share * terms, (1 - share) * terms)
        return -(weight * terms).sum()

    def _weight(self, cosines, shares):
        """Factor of a term: a number, or [batch, 1] with shares."""
        weight = self.loss_weight / len(cosines)
        if shares is not None:
            weight = self.loss_weight * shares.unsqueeze(1)
        return weight / self.scale if self.form == "face" else weight

    def _positive_logits(self, cosines):
        """Logits of true classes, without the bias."""
        if self.margin_type == "C":
            return self.scale * (self._similarity(cosines) - self.margin)
        if self.form == "speaker":
            return self.scale * self._similarity(
                cos_plus_margin(cosines, self.margin)
            )
        angles = cosines.clamp(-1, 1).acos()
        if self.margin_type == "A":
            angles = angles + self.margin
        else:
            angles = angles * self.margin
        return self.scale * self._similarity(angles.clamp(max=math.pi).cos())

    def _similarity(self, cosines):
        """The similarity adjustment g of the papers."""
        return 2 * (_above(cosines, self.exponent) / 2) ** self.exponent - 1

    def _balancing_bias(self, classes):
        """The bias whose gradients balance if all angles are 90 degrees."""
        weight = self.positive_weight
        ratio = weight / ((1 - weight) * (classes - 1))
        right = torch.zeros(1, dtype=torch.float64)
        positive = self._positive_logits(right).item()
        negative = self.scale * self._similarity(right).item()
        if self.margin_type == "C":
            negative += self.scale * self.margin
        # the published -log(1 - ratio + root), which cancels for few classes
        pull = 4 * ratio * math.exp(positive - negative)
        root = math.sqrt((1 - ratio) ** 2 + pull)
        rest = 1 - ratio + root if ratio <= 1 else pull / (ratio - 1 + root)
        return math.log(2 * ratio) - negative - math.log(rest)


class _OneVsAll(torch.autograd.Function):
    """The loss and its gradient in one pass, a few utterances at a time.

    Autograd would keep some fifteen tensors of [batch, classes]. This keeps
    one, the gradient.
    """

    @staticmethod
    def forward(ctx, cosines, bias, targets, rows, columns, loss, shares):
        weight = loss._weight(cosines, shares)
        positive_weight = weight * loss.positive_weight
        negative_weight = weight - positive_weight
        # a tensor: a changed margin does not compile everything again
        margin = cosines.new_full((), loss.margin)
        shift = margin if loss.margin_type == "C" else 0
        angular = loss.margin_type == "A" and loss.form == "speaker"
        turn = (margin.cos(), margin.sin()) if angular else None
        constants = (
            bias + loss.scale * shift,
            turn,
            loss.scale,
            loss.exponent,
            loss.form == "face",
            negative_weight,
        )
        total, pull, gradient = _all_negatives(
            loss, cosines, targets, rows, columns, constants
        )
        with torch.inference_mode(False), torch.enable_grad():
            own = cosines.detach()[rows, columns].requires_grad_()
            logits = loss._positive_logits(own)
            (slope,) = torch.autograd.grad(logits.sum(), own)
        if loss.form == "face":
            slope = torch.full_like(slope, loss.scale)
        logits = logits.detach() + bias
        if shares is not None:
            positive_weight = positive_weight[rows, 0]
            negative_weight = 1  # total and pull have theirs already
        pulls = torch.sigmoid(-logits) * -positive_weight
        gradient[rows, columns] = pulls * slope
        bias_gradient = (negative_weight * pull + pulls.sum()).reshape(1)
        ctx.save_for_backward(gradient, bias_gradient)
        gains = logsigmoid(logits)
        if shares is not None:
            return total - positive_weight @ gains
        return negative_weight * total - positive_weight * gains.sum()

    @staticmethod
    def backward(ctx, outer):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "SphereFace2 has no second derivative, which `create_graph` "
                "needs: its gradient is computed in the forward pass. Use "
                "torch.func.grad, which differentiates any number of times."
            )
        gradient, bias_gradient = ctx.saved_tensors
        # on a CPU new memory is as expensive as all the rest, and reading a
        # number is free
        if outer.device.type == "cpu" and outer == 1:
            return gradient, bias_gradient, *(None,) * 5
        gradient, bias_gradient = gradient * outer, bias_gradient * outer
        return gradient, bias_gradient, *(None,) * 5


def _all_negatives(loss, cosines, targets, rows, columns, constants):
    """``negatives`` of a whole batch, compiled or in place."""
    gradient = gradient_memory(cosines)
    compiled = loss.compile_pass
    if compiled is None:
        compiled = cosines.numel() >= WORTH_COMPILING
        compiled = compiled and compiler_found(cosines.device.type)
    sizes = loss.compiled_sizes
    if compiled and len(sizes) < COMPILED_SIZES:
        sizes.add(len(cosines))
    if compiled and len(cosines) in sizes:
        # here, because it takes half a second to import
        from torch._dynamo.exc import TorchDynamoException

        try:
            given = gradient, cosines, targets, *constants
            return *compiled_negatives()(*given), gradient
        except TorchDynamoException as error:
            if loss.compile_pass:
                raise
            reason = str(error).strip().splitlines()[0]
            logger.warning(
                f"SphereFace2 continues without torch.compile: {reason} "
                "The loss takes longer. Pass compile=False to not try it."
            )
            loss.compile_pass = False
    bias, turn, *others = constants
    if turn is not None:  # as numbers
        turn = math.cos(loss.margin), math.sin(loss.margin)
    given = gradient, cosines, rows, columns, bias, turn, *others
    return *negatives_in_place(*given), gradient


def _above(cosines, exponent):
    """1 + cos, at least 0 if the exponent is fractional."""
    above = cosines + 1
    # rounding can make it negative, and so can margin A beyond pi
    return above if exponent == int(exponent) else above.clamp(min=0)
