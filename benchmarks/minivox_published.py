#!/usr/bin/env python3
"""EERs that WeSpeaker's own code reaches on MiniVox, by a plain loop.

    python benchmarks/minivox_published.py --data_folder=MINIVOX \
        --wespeaker=CHECKOUT [--losses asphereface2] [--seeds 43 44]

Network, projection and schedules are those of a checkout of
github.com/wenet-e2e/wespeaker; the loop around them is as short as it can be
and has nothing of this package but the preparation, the EER and the reading of
manifests and trials, so that it is a second opinion on what `minivox.py`
holds the recipes to. About half an hour a run on one core, 18 minutes on two.
"""

import importlib
import subprocess
import sys
import time
import types

import numpy as np
import soundfile
import torch
import torchaudio
from record import ROOT, finish, parser, print_header, print_row, row

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.trials import find_trial_lists, read_trials
from speechbrain_ext.utils.metrics import EER

RECIPE = ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"
EPOCHS, BATCH, CROP = 12, 64, 32000  # crop in samples: two seconds
SIZE, TOP_N = 128, 100
LOSSES = {
    "csphereface2": ("SphereFace2", 0.2, {"margin_type": "C"}),
    "asphereface2": ("SphereFace2", 0.15, {"margin_type": "A"}),
    "aam": ("ArcMarginProduct", 0.2, {}),
}


def published(checkout, name):
    """A module of the checkout, without what its package would import."""
    package = types.ModuleType("wespeaker")
    package.__path__ = [f"{checkout}/wespeaker"]
    sys.modules.setdefault("wespeaker", package)
    return importlib.import_module(f"wespeaker.{name}")


def features(samples):
    """Filterbanks of 16-bit samples, their mean taken off, [frames, 80]."""
    fbank = torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(samples.astype(np.float32))[None],
        num_mel_bins=80,
        sample_frequency=16000,
        window_type="hamming",
        dither=0.0,
    )
    return fbank - fbank.mean(0)


def crop(samples, rng):
    """Two seconds from anywhere; what is shorter is repeated."""
    if len(samples) < CROP:
        return np.resize(samples, CROP)
    start = rng.integers(len(samples) - CROP + 1)
    return samples[start : start + CROP]


def read(manifest):
    """The samples of every utterance, as 16-bit numbers."""
    return [soundfile.read(path, dtype="int16")[0] for path in manifest["wav"]]


def train(checkout, loss, manifest, seed, epochs):
    """The published network after the published kind of training."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    speakers, labels = np.unique(manifest["spk_id"], return_inverse=True)
    audio = read(manifest)
    seconds = manifest["duration"].to_numpy()
    draws = np.maximum(2, np.floor(seconds / 2 + 0.5)).astype(int)
    rows = np.repeat(np.arange(len(manifest)), draws)
    steps = len(rows) // BATCH
    resnet = published(checkout, "models.resnet")
    model = resnet.ResNet(
        resnet.BasicBlock,
        [3, 4, 6, 3],
        m_channels=8,
        feat_dim=80,
        embed_dim=SIZE,
        pooling_func="TSTP",
        two_emb_layer=False,
    )
    name, margin, options = LOSSES[loss]
    projections = published(checkout, "models.projections")
    projection = getattr(projections, name)(
        SIZE, len(speakers), scale=32.0, margin=0.0, **options
    )
    model.add_module("projection", projection)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
    )
    schedulers = published(checkout, "utils.schedulers")
    rates = schedulers.ExponentialDecrease(
        optimizer, epochs, steps, 0.1, 0.0005, 1.5, 1.0, warm_from_zero=True
    )
    margins = schedulers.MarginScheduler(
        model, steps, 1 + 0.15 * epochs, 1 + 0.5 * epochs, 0.0, margin, True
    )
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        order = rng.permutation(rows)[: steps * BATCH].reshape(steps, BATCH)
        for step, batch in enumerate(order):
            rates.step(epoch * steps + step)
            margins.step(epoch * steps + step)
            inputs = [features(crop(audio[i], rng)) for i in batch]
            targets = torch.from_numpy(labels[batch])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                embeddings = model(torch.stack(inputs))[-1]
            outputs = projection(embeddings.float(), targets)
            if isinstance(outputs, tuple):
                value = outputs[1]
            else:
                value = torch.nn.functional.cross_entropy(outputs, targets)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += value.item()
        print(
            f"{loss}, seed {seed}, epoch {epoch + 1}: loss "
            f"{total / steps:.4f}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return model.eval(), audio, labels


@torch.no_grad()
def embed(model, audio):
    """Unit embeddings of whole utterances, one at a time, [utterances, 128]."""
    found = [model(features(samples)[None])[-1][0] for samples in audio]
    return torch.nn.functional.normalize(torch.stack(found)).numpy()


def eers(embeddings, cohort, lists, rows):
    """EER % of each list: by cosine and, with the speaker means, AS-norm."""
    nearest = np.sort(embeddings @ cohort.T, axis=1)[:, -TOP_N:]
    mean, std = nearest.mean(1), nearest.std(1)
    for path in lists:
        trials = read_trials(path)
        a, b = (
            np.array([rows[name] for name in trials[side]])
            for side in ("enrol", "test")
        )
        cosine = (embeddings[a] * embeddings[b]).sum(1)
        norm = ((cosine - mean[a]) / std[a] + (cosine - mean[b]) / std[b]) / 2
        target = trials["target"].to_numpy(dtype=bool)
        for scores in (cosine, norm):
            yield 100 * EER(scores[target], scores[~target])[0]


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "one epoch")
    options.add_argument("--data_folder", required=True)
    options.add_argument("--wespeaker", required=True, metavar="CHECKOUT")
    options.add_argument("--save_folder", default=ROOT / "results/published")
    options.add_argument("--losses", nargs="+", default=["asphereface2"])
    options.add_argument("--seeds", nargs="+", type=int, default=[43, 44])
    arguments = options.parse_args()
    subprocess.run(
        [sys.executable, RECIPE / "voxceleb_prepare.py"]
        + [f"--data_folder={arguments.data_folder}"]
        + [f"--save_folder={arguments.save_folder}"],
        check=True,
    )
    training, test = (
        read_manifest(f"{arguments.save_folder}/{name}.csv")
        for name in ("train", "test")
    )
    lists = sorted(find_trial_lists([arguments.data_folder]), reverse=True)
    rows_of = {name: row for row, name in enumerate(test["ID"])}
    print_header()
    record = []
    for loss in arguments.losses:
        for seed in arguments.seeds:
            model, audio, labels = train(
                *(arguments.wespeaker, loss, training, seed),
                1 if arguments.quick else EPOCHS,
            )
            own = embed(model, audio)
            means = [own[labels == s].mean(0) for s in range(labels.max() + 1)]
            cohort = np.stack([m / np.linalg.norm(m) for m in means])
            found = eers(embed(model, read(test)), cohort, lists, rows_of)
            for path in lists:
                name = path.rpartition("/")[2].removesuffix(".txt")
                for scoring in ("cosine", "AS-norm"):
                    what = f"published {loss} seed {seed} {name} {scoring} EER"
                    record.append(row(what, next(found), "%"))
                    print_row(record[-1])
    finish(record, arguments.json)


if __name__ == "__main__":
    main()
