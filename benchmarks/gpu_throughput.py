"""Utterances per second of training, beside the bare encoder's.

ResNet34 with 32 channels, embeddings of 256, batch 256, crops of 200 frames,
17,982 classes (VoxCeleb2 at three speeds), C-SphereFace2, SGD. The waveforms
lie on the device: reading is measured by the recipe's own log. The plain loop
is in WeSpeaker's manner: float32, the features one utterance at a time on the
CPU, the logits copied to the host in every step.
"""

import contextlib
import functools
import statistics
import time

import torch
import torchaudio
from torch.utils.flop_counter import FlopCounterMode

from speechbrain_ext.lobes.features import KaldiFbank, SentenceMeanNorm
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import SphereFace2

SAMPLES, FRAMES = 32240, 200
BATCH, CLASSES, CHANNELS = 256, 17_982, 32
SMALL = (4, 50, 4)  # of these three on a CPU
VOXCELEB2 = 1_092_009  # utterances
BARE_SHARE, FASTER = 0.85, 2.5  # bounds of the best way
WARM, ROUNDS, SECONDS = 3, 20, 25  # steps, most steps and seconds of a way
WAYS = {  # autocast, channels_last, compiled
    "fp32": (None, False, False),
    "bf16": (torch.bfloat16, False, False),
    "bf16, channels_last": (torch.bfloat16, True, False),
    "bf16, compiled, channels_last": (torch.bfloat16, True, True),
}
BEST = "bf16, compiled, channels_last"


class Training:
    """Steps of training with random waveforms.

    Arguments
    ---------
    device : str
        ``cpu`` or ``cuda``.
    way : tuple
        Autocast's type, ``channels_last``, and whether to compile.
    sizes : tuple of int
        Batch, classes and channels.
    """

    def __init__(self, device, way, sizes):
        self.device, (self.dtype, last, compiled) = device, way
        batch, classes, channels = sizes
        torch.manual_seed(0)
        self.fbank = KaldiFbank().to(device)
        self.norm = SentenceMeanNorm()
        model = ResNet(80, channels=channels, lin_neurons=256).to(device)
        if last:
            model = model.to(memory_format=torch.channels_last)
        self.head = CosineClassifier(256, classes).to(device)
        self.loss = SphereFace2("C", 0.2).to(device)
        modules = torch.nn.ModuleList([model, self.head, self.loss])
        self.optimizer = torch.optim.SGD(
            modules.parameters(),
            lr=0.1,
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-4,
            fused=device == "cuda",
        )
        self.encoder = torch.compile(model) if compiled else model
        self.wavs = 0.1 * torch.randn(batch, SAMPLES)
        self.targets = torch.randint(classes, (batch, 1)).to(device)
        self.random = torch.randn(batch, FRAMES, 80, device=device)
        self.here = self.wavs.to(device)

    def autocast(self):
        """Autocast of the encoder."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device, self.dtype)

    def update(self, loss):
        """Backward and the optimizer's step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def whole(self):
        """A step from waveforms to new weights."""
        with self.autocast():
            features = self.norm(self.fbank(self.here))
            cosines = self.head(self.encoder(features))
            loss = self.loss(cosines, self.targets)
        self.update(loss)

    def bare(self):
        """The encoder's forward and backward on random features."""
        with self.autocast():
            found = self.encoder(self.random)
        found.float().sum().backward()

    def plain(self):
        """A step of a loop in WeSpeaker's manner."""
        kaldi = functools.partial(
            torchaudio.compliance.kaldi.fbank,
            num_mel_bins=80,
            window_type="hamming",
        )
        features = [kaldi(wav[None] * 2**15) for wav in self.wavs]
        features = torch.stack([one - one.mean(0) for one in features])
        cosines = self.head(self.encoder(features.to(self.device)))
        loss = self.loss(cosines, self.targets)
        self.update(loss)
        best = cosines.detach().cpu().squeeze(1).argmax(dim=1)
        (best == self.targets.squeeze(1).cpu()).float().mean()
        loss.item()


def wait(device):
    """Waits until the GPU has finished."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(step, device, rounds=ROUNDS):
    """Seconds of each step, after some that warm up."""
    for _ in range(WARM):
        step()
    found, began = [], time.perf_counter()
    while len(found) < rounds and time.perf_counter() < began + SECONDS:
        wait(device)
        started = time.perf_counter()
        step()
        wait(device)
        found.append(time.perf_counter() - started)
    return found


def matmul_rate(device):
    """bf16 matrix products, 10^12 operations a second."""
    size = 8192
    one = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    taken = statistics.median(seconds(lambda: one @ one, device))
    return 2 * size**3 / taken / 1e12


def largest(step_of, batch):
    """Steps of the largest batch that fits: this one, or halved until so."""
    while True:
        made = None
        try:
            made = step_of(batch)
            made.whole()
            wait(made.device)
            return made, batch
        except torch.OutOfMemoryError:
            if batch < 2:
                raise
        del made
        torch.cuda.empty_cache()
        print(f"A batch of {batch} does not fit; trying {batch // 2}.")
        batch //= 2


def measure(report, name, step, batch):
    """Adds the rate of a step and its spread; utterances per second."""
    rounds = ROUNDS if report.on_gpu else 3
    found = sorted(batch / one for one in seconds(step, report.device, rounds))
    rate, quarter = statistics.median(found), len(found) // 4
    report.note(f"{name}: rate", rate, "utterances/s")
    report.note(f"{name}: lower quartile", found[quarter], "utterances/s")
    report.note(f"{name}: upper quartile", found[-1 - quarter], "utterances/s")
    return rate


def table(report):
    """Every way, its bare encoder, and the plain loop."""
    device, gpu = report.device, report.on_gpu
    batch, classes, channels = (BATCH, CLASSES, CHANNELS) if gpu else SMALL
    ways = dict(WAYS) if gpu else {k: WAYS[k] for k in ("fp32", "bf16")}
    if gpu:
        peak = matmul_rate(device)
        report.note("bf16 matrix product", peak, "TFLOP/s")
    else:
        report.skip("channels_last, compiled, the card's peak", "only on a GPU")
    rates, sizes, operations = {}, {}, 0
    for name, way in ways.items():
        with report.check(name):
            if gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            made, fits = largest(
                lambda size, way=way: Training(
                    device, way, (size, classes, channels)
                ),
                batch,
            )
            report.note(f"{name}: batch", fits, "utterances")
            sizes[name] = fits
            rates[name] = measure(report, name, made.whole, fits)
            if gpu:
                used = torch.cuda.max_memory_allocated() / 1e9
                report.note(f"{name}: peak memory", used, "GB")
            bare = measure(report, f"{name}: bare encoder", made.bare, fits)
            least = BARE_SHARE if name == BEST else None
            label = f"{name}: of the bare encoder's rate"
            report.note(label, rates[name] / bare, "x", least, at_least=True)
            if gpu and not way[2]:  # a compiled step would not be counted
                with FlopCounterMode(display=False) as counter:
                    made.bare()
                operations = counter.get_total_flops() / fits
            if gpu:
                used = operations * rates[name] / 1e12
                report.note(
                    f"{name}: the encoder's operations", used, "TFLOP/s"
                )
                label = f"{name}: operations / those of the bf16 product"
                report.note(label, 100 * used / peak, "%")
            del made
    with report.check("plain loop"):
        batch = sizes["fp32"]
        made = Training(device, WAYS["fp32"], (batch, classes, channels))
        plain = measure(report, "plain loop", made.plain, batch)
        for name, rate in rates.items():
            least = FASTER if name == BEST else None
            label = f"{name} / plain loop"
            report.note(label, rate / plain, "x", least, at_least=True)
    if gpu and BEST in rates:
        hours = 150 * VOXCELEB2 / rates[BEST] / 3600
        report.note("150 epochs of VoxCeleb2 at the best rate", hours, "h")
