"""Losses for speaker encoders: on cosines, on logits, and on embeddings.

Every loss has SpeechBrain's interface ``(outputs, targets [batch, 1],
length=None) -> scalar``. It computes in float32, and in float64 if the outputs
are float64. A loss on cosines or logits takes ``outputs [batch, 1, classes]``.
A metric loss takes the embeddings themselves, ``[batch, 1, embedding]``.

The values of every batch are checked on a CPU. A GPU has to wait for each
check, so only the first 10 batches are checked there. ``loss.check_inputs =
True`` checks every batch and False none. With the environment variable
CUDA_LAUNCH_BLOCKING=1, which CUDA recommends after a "device-side assert",
every batch is checked too.
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
