"""Losses for speaker encoders: on cosines, on logits, and on embeddings.

Every loss keeps SpeechBrain's contract ``(outputs, targets [batch, 1],
length=None) -> scalar`` and computes in float32 under autocast. A loss on
cosines or logits takes ``outputs [batch, 1, classes]``, a metric loss the
embeddings themselves, ``[batch, 1, embedding]``.
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
