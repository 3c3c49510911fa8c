"""Losses for speaker encoders: on cosines, on logits, and on embeddings.

Every loss keeps SpeechBrain's contract ``(outputs, targets [batch, 1],
length=None) -> scalar``. It computes in float32, or in float64 for such
outputs. A loss on cosines or logits takes ``outputs [batch, 1, classes]``, a
metric loss the embeddings themselves, ``[batch, 1, embedding]``.

Values are checked for every batch on a CPU, and for the first 10 on a GPU,
which has to wait for each check. ``loss.check_inputs = True`` (or False) says
otherwise; so does the environment variable CUDA_LAUNCH_BLOCKING=1, which is
what CUDA asks for after a "device-side assert".
"""

from speechbrain_ext.nnet.losses.metric_learning import (
    GE2E,
    AngularPrototypical,
    Prototypical,
    SoftmaxAngularPrototypical,
)
from speechbrain_ext.nnet.losses.pairs import Contrastive, Triplet
from speechbrain_ext.nnet.losses.softmax import AAMSoftmax, AMSoftmax, Softmax
from speechbrain_ext.nnet.losses.sphereface2 import SphereFace2

__all__ = [
    "AAMSoftmax",
    "AMSoftmax",
    "AngularPrototypical",
    "Contrastive",
    "GE2E",
    "Prototypical",
    "Softmax",
    "SoftmaxAngularPrototypical",
    "SphereFace2",
    "Triplet",
]
