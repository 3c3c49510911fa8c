"""Losses, features, networks and scoring on a device beside the CPU's."""

import contextlib
import copy
import functools
import re

import pandas as pd
import torch
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_ext.augment.noise import NoiseAndReverberation
from speechbrain_ext.augment.spectrum import SpecAugment
from speechbrain_ext.core import ResumableBrain
from speechbrain_ext.lobes import features
from speechbrain_ext.lobes.models.DFResNet import DFResNet
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.lobes.models.SEResNet import SEResNet
from speechbrain_ext.lobes.models.TDNN import ResSETDNN
from speechbrain_ext.lobes.models.VGG import VGG
from speechbrain_ext.nnet import losses as ours
from speechbrain_ext.nnet.classifiers import CosineClassifier, LinearClassifier
from speechbrain_ext.processing.back_end import BackEnd, calibrate_scoring
from speechbrain_ext.processing.scoring import SCORINGS
from speechbrain_ext.utils.devices import compiler_found

SIZE, CLASSES = 32, 40
MEMORY = 2e9  # bytes that the part "memory" may use
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# most that a loss, its gradient and an embedding may differ, ppm
ALLOWED = {"fp32": 200, "bf16": 10_000, "fp16": 2_000}
Face = functools.partial(ours.SphereFace2, form="face", out_neurons=CLASSES)
Cosine = functools.partial(CosineClassifier, SIZE, CLASSES)
# the head, the loss, and whether it chooses or clamps: then rounding may choose
# others, and only the loss is compared in half precision
LOSSES = {
    "SphereFace2 C": (Cosine, lambda: ours.SphereFace2("C", 0.2), False),
    "SphereFace2 A": (Cosine, lambda: ours.SphereFace2("A", 0.15), False),
    "SphereFace2 C face": (Cosine, lambda: Face("C", 0.4, 40.0), False),
    "SphereFace2 A face": (Cosine, lambda: Face("A", 0.5, 40.0), False),
    "SphereFace2 M face": (Cosine, lambda: Face("M", 1.7, 40.0), False),
    "AM": (Cosine, lambda: ours.AMSoftmax(0.2), False),
    "AAM": (Cosine, lambda: ours.AAMSoftmax(0.2), False),
    "AAM sub-center": (
        functools.partial(Cosine, sub_centers=3),
        lambda: ours.AAMSoftmax(0.2, top_k=5, top_k_penalty=0.06),
        True,
    ),
    "softmax": (
        functools.partial(LinearClassifier, SIZE, CLASSES),
        ours.Softmax,
        False,
    ),
    "prototypical": (torch.nn.Identity, ours.Prototypical, False),
    "angular prototypical": (
        torch.nn.Identity,
        ours.AngularPrototypical,
        False,
    ),
    "GE2E": (torch.nn.Identity, ours.GE2E, True),
    "softmax and prototypical": (
        torch.nn.Identity,
        lambda: ours.SoftmaxAngularPrototypical(SIZE, CLASSES),
        False,
    ),
    "triplet": (torch.nn.Identity, ours.Triplet, True),
    "contrastive": (torch.nn.Identity, ours.Contrastive, False),
}
NETWORKS = {
    "ResNet": lambda: ResNet(40, (1, 1, 1, 1), 8, SIZE),
    "ResNet MSEA, SE": lambda: ResNet(
        40, (1, 1, 1, 1), 8, SIZE, reduction=4, all_stages=True
    ),
    "ResNet bottleneck": lambda: ResNet(
        40, (1, 1, 1, 1), 8, SIZE, block="bottleneck"
    ),
    "DF-ResNet": lambda: DFResNet(40, (1, 1, 1, 1), (8, 8, 16, 16, 32)),
    "SE-ResNet": lambda: SEResNet(40),
    "RES-SE-TDNN": lambda: ResSETDNN(40),
    "VGG-M": lambda: VGG(40),
}


def exact():
    """Full float32: no TF32 in convolutions and matrix products."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def precision(device, dtype):
    """Autocast as in training; none in float32."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device, dtype)


def loss_and_gradient(head, loss, device, dtype):
    """The loss of a small encoder's embeddings, and the encoder's gradient."""
    torch.manual_seed(0)
    encoder = torch.nn.Linear(SIZE, SIZE)
    modules = torch.nn.ModuleList([encoder, head(), loss()]).to(device)
    inputs = torch.randn(64, 1, SIZE).to(device)
    targets = (torch.arange(64) // 4)[:, None].to(device)
    with precision(device, dtype):
        found = modules[2](modules[1](encoder(inputs)), targets)
    (2.0**10 * found).backward()  # as a scaler does
    return found, encoder.weight.grad / 2.0**10


def losses(report):
    """Every loss in three precisions, beside float32 on the CPU."""
    exact()
    for name, (head, loss, chooses) in LOSSES.items():
        with report.check(name):
            wanted = loss_and_gradient(head, loss, "cpu", None)
            for kind, dtype in PRECISIONS.items():
                got = loss_and_gradient(head, loss, report.device, dtype)
                bound, label = ALLOWED[kind], f"{name}, {kind}"
                report.compare(f"{label}: loss", got[0], wanted[0], bound)
                if chooses and dtype is not None:
                    continue
                label += ": gradient"
                report.compare(label, got[1], wanted[1], 2 * bound)


def frontend(report):
    """Features, their norms, noise, reverberation, masks and dither."""
    exact()
    device, seeds = report.device, [3, 1, 4, 1]
    torch.manual_seed(0)
    wavs = 0.1 * torch.randn(4, 16000)
    lengths = torch.tensor([1.0, 0.5, 0.75, 1.0])
    for name, module in {
        "KaldiFbank": features.KaldiFbank(),
        "KaldiFbank with energy": features.KaldiFbank(use_energy=True),
        "LogMelSpectrogram": features.LogMelSpectrogram(),
        "MagnitudeSpectrogram": features.MagnitudeSpectrogram(),
    }.items():
        with report.check(name):
            wanted = module.eval()(wavs)
            module = module.to(device)
            got = module(wavs.to(device))
            report.compare(name, got, wanted, 100)
            with torch.autocast(device, torch.bfloat16):
                again = module(wavs.to(device))
            report.compare(f"{name} in bf16 training", again, got, 0)
            for norm in features.SentenceMeanNorm, features.SentenceMeanVarNorm:
                report.compare(
                    f"{name}, {norm.__name__}",
                    norm()(got, lengths.to(device)),
                    norm()(wanted, lengths),
                    500,
                )
    with report.check("SpecAugment"):
        fbanks, masks = torch.randn(4, 200, 80), SpecAugment(1.0)
        got = masks(fbanks.to(device), seeds)
        report.compare("SpecAugment", got, masks(fbanks, seeds), 0)
    with report.check("noise and reverberation"):
        noises, responses = torch.randn(4, 16000), torch.randn(4, 4000)
        noises[1], responses[0], responses[2] = 0, 0, 0
        given = wavs, lengths, noises, responses
        apply = NoiseAndReverberation().apply
        got = apply(*(one.to(device) for one in given))
        report.compare("noise and reverberation", got, apply(*given), 50)
    with report.check("dither"):
        dither(report, wavs, seeds)


def dither(report, wavs, seeds):
    """Dither by seeds: the noise of a row is its own, and of the right size."""
    fbank = features.KaldiFbank(dither=1.0).to(report.device).train()
    wavs = wavs.to(report.device)
    together = fbank(wavs, seeds)
    report.compare("dither, again", fbank(wavs, seeds), together, 0)
    alone = torch.cat(
        [fbank(wavs[i : i + 1], seeds[i : i + 1]) for i in (0, 1)]
    )
    report.compare("dither, one by one", alone, together[:2], 10)
    silence = torch.zeros(4, 16000)
    wanted = features.KaldiFbank(dither=1.0).train()(silence, seeds)
    got = fbank(silence.to(report.device), seeds)
    report.compare("dither of silence, mean", got.mean(), wanted.mean(), 20_000)
    report.compare("dither of silence, spread", got.std(), wanted.std(), 50_000)


def step(model, inputs, lengths, device, dtype=None, layout=None):
    """Embeddings in evaluation and training, and all gradients as one."""
    model = copy.deepcopy(model).to(device)
    if layout is not None:
        model = model.to(memory_format=layout)
    inputs, lengths = inputs.to(device), lengths.to(device)
    with torch.no_grad(), precision(device, dtype):
        evaluated = model.eval()(inputs, lengths)
    with precision(device, dtype):
        trained = model.train()(inputs)
    outer = torch.linspace(-1, 1, trained.numel(), device=device)
    trained.float().backward(outer.view_as(trained))
    gradients = [p.grad.flatten() for p in model.parameters()]
    return evaluated, trained, torch.cat(gradients)


def encoders(report):
    """Each network, in float32, and the first one in all ways."""
    exact()
    torch.manual_seed(0)
    inputs = torch.randn(4, 200, 40)
    lengths = torch.tensor([1.0, 0.6, 0.75, 0.6])
    names = "embeddings, padded", "embeddings in training", "gradient"
    wanted = {}
    for name, make in NETWORKS.items():
        with report.check(name):
            model = make()
            wanted[name] = model, step(model, inputs, lengths, "cpu")
            got = step(model, inputs, lengths, report.device)
            for what, one, other in zip(
                names, got, wanted[name][1], strict=True
            ):
                bound = 10_000 if what == "gradient" else 2_000
                report.compare(f"{name}: {what}", one, other, bound)
    model, expected = wanted["ResNet"]
    ways = [(kind, PRECISIONS[kind], None) for kind in ("bf16", "fp16")]
    if report.on_gpu:
        layout = torch.channels_last
        ways += [
            (f"channels_last, {k}", d, layout) for k, d in PRECISIONS.items()
        ]
    else:
        report.skip("channels_last", "only on a GPU")
    for kind, dtype, layout in ways:
        with report.check(kind):
            got = step(model, inputs, lengths, report.device, dtype, layout)
            bound = 2_000 if dtype is None else 2 * ALLOWED[kind.split()[-1]]
            for what, one, other in zip(names, got, expected, strict=True):
                # of random weights, far noisier: 0.13 in bf16 on the CPU
                more = 20 if what == "gradient" else 1
                report.compare(f"{what}, {kind}", one, other, more * bound)


def compiled(report):
    """The compiled loss and encoder, beside those that are not compiled."""
    exact()
    if not compiler_found(report.device):
        missing = "Triton" if report.on_gpu else "a C++ compiler"
        report.skip("all", f"{missing} is missing; losses run uncompiled")
        return
    for kind, margin in (("C", 0.2), ("A", 0.15)):
        with report.check(f"SphereFace2 {kind}"):
            wanted, got = (
                loss_and_gradient(
                    Cosine,
                    functools.partial(
                        ours.SphereFace2, kind, margin, compile=on
                    ),
                    report.device,
                    None,
                )
                for on in (False, True)
            )
            report.compare(f"SphereFace2 {kind}: loss", got[0], wanted[0], 50)
            label = f"SphereFace2 {kind}: gradient"
            report.compare(label, got[1], wanted[1], 100)
    if not report.on_gpu:
        report.skip("encoder", "only on a GPU: here it takes minutes")
        return
    torch.manual_seed(0)
    model = NETWORKS["ResNet"]().to(report.device)
    inputs = torch.randn(8, 100, 40, device=report.device)
    for kind, dtype in PRECISIONS.items():
        with report.check(f"encoder, {kind}"), precision("cuda", dtype):
            wanted, got = (
                f(inputs).float() for f in (model, torch.compile(model))
            )
            report.compare(f"encoder, {kind}", got, wanted, 2 * ALLOWED[kind])


def scoring(report):
    """All scorings and a calibration, beside float64 on the CPU."""
    exact()
    torch.manual_seed(0)
    speakers = [f"s{number // 4}" for number in range(160)]
    centers = torch.randn(40, 16).repeat_interleave(4, dim=0)
    cohort = centers + torch.randn(160, 16)
    embeddings, crops = torch.randn(50, 16), torch.randn(50, 3, 16)
    enrol, test = torch.randint(50, (2, 400)).tolist()
    table = pd.DataFrame(
        {
            "ID": [f"{name}/{i}/1" for i, name in enumerate(speakers)],
            "spk_id": speakers,
            "duration": 2.0,
        }
    )
    options = {"top_n": 20, "plda_rank": 8}
    exactly = BackEnd(cohort.double(), speakers, **options)
    here = BackEnd(cohort.to(report.device), speakers, **options)
    for name in SCORINGS:
        with report.check(name):
            given = crops if name == "crops" else embeddings
            wanted = exactly.scores(name, given.double(), enrol, test)
            got = here.scores(name, given.to(report.device), enrol, test)
            report.compare(name, torch.as_tensor(got), wanted, 500)
    for name in ("cosine", "asnorm"):
        with report.check(f"calibration of {name}"):
            wanted, got = (
                calibrate_scoring(name, back_end, table, trials=200)
                for back_end in (exactly, here)
            )
            label = f"calibration of {name}"
            got, wanted = (
                torch.tensor([*one.weights, one.bias]) for one in (got, wanted)
            )
            report.compare(label, got, wanted, 5_000)


class Embedder(ResumableBrain):
    """Trains an encoder to make small embeddings."""

    def compute_forward(self, batch, stage):
        """From features to embeddings."""
        return self.modules.encoder(batch.to(self.device).sig.data)

    def compute_objectives(self, predictions, batch, stage):
        """Their energy."""
        return predictions.square().mean()


def memory(report):
    """Too little memory for a batch: the error names one that fits."""
    most = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(MEMORY / most)
    brain = Embedder(
        {"encoder": NETWORKS["ResNet"]()},
        functools.partial(torch.optim.SGD, lr=0.1),
        run_opts={"device": report.device},
    )
    brain.on_fit_start()
    utterance = {"sig": torch.randn(400, 40)}
    with report.check("a batch that fits"):
        try:
            brain.fit_batch(PaddedBatch([utterance] * 4096))
        except MemoryError as error:
            said = str(error)
        print(said)
        size = int(re.search(r"a batch of (\d+) fits", said)[1])
        brain.fit_batch(PaddedBatch([utterance] * size))
        report.note("a batch that fits", size, "utterances", 1, at_least=True)
