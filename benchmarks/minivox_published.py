#!/usr/bin/env python3
"""EERs that WeSpeaker's own code reaches on MiniVox, by a plain loop.

    python benchmarks/minivox_published.py --data_folder=MINIVOX \
        --wespeaker=CHECKOUT [--losses asphereface2] [--seeds 43 44]

Network, projection and schedules are those of a checkout of
github.com/wenet-e2e/wespeaker. The loop around them is as short as it can be.
It takes from this package only the preparation, the reading of manifests and
trials, the writing of score files, and the figures. So it is a second opinion
on the small recipes. The defaults are the setting of these recipes. A run
takes about half an hour on one core. A run that was killed resumes after its
last epoch.

Each run's folder, LOSS_SEED in --output_folder, gets score files and
results.json in the form of the recipe's verification.
"""

import importlib
import json
import pathlib
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
from speechbrain_ext.dataio.score_files import write_scores
from speechbrain_ext.dataio.trials import find_trial_lists, read_trials
from speechbrain_ext.utils.bootstrap import speaker_bootstrap
from speechbrain_ext.utils.evaluation import evaluate, metric_functions
from speechbrain_ext.utils.files import atomic_path, atomic_write

RECIPE = ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"
SIZE, TOP_N = 128, 100
SCORINGS = {"cosine": "cosine", "asnorm": "AS-norm"}
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


def crop(samples, rng, length):
    """A crop from anywhere; what is shorter is repeated."""
    if len(samples) < length:
        return np.resize(samples, length)
    start = rng.integers(len(samples) - length + 1)
    return samples[start : start + length]


def read(manifest):
    """The samples of every utterance, as 16-bit numbers."""
    return [soundfile.read(path, dtype="int16")[0] for path in manifest["wav"]]


def build(checkout, loss, setting, speakers):
    """The published network with its projection, and their optimizer."""
    resnet = published(checkout, "models.resnet")
    model = resnet.ResNet(
        resnet.BasicBlock,
        [3, 4, 6, 3],
        m_channels=setting.channels,
        feat_dim=80,
        embed_dim=SIZE,
        pooling_func="TSTP",
        two_emb_layer=False,
    )
    name, margin, options = LOSSES[loss]
    projections = published(checkout, "models.projections")
    projection = getattr(projections, name)(
        SIZE, speakers, scale=32.0, margin=0.0, **options
    )
    model.add_module("projection", projection)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
    )
    return model, optimizer, margin


def schedules(checkout, model, optimizer, margin, epochs, steps):
    """The published learning rate and margin."""
    schedulers = published(checkout, "utils.schedulers")
    rates = schedulers.ExponentialDecrease(
        optimizer, epochs, steps, 0.1, 0.0005, 1.5, 1.0, warm_from_zero=True
    )
    margins = schedulers.MarginScheduler(
        model, steps, 1 + 0.15 * epochs, 1 + 0.5 * epochs, 0.0, margin, True
    )
    return rates, margins


def rows_drawn(manifest, setting):
    """The utterances of an epoch, each as often as it is drawn."""
    seconds = manifest["duration"].to_numpy() / setting.seconds_per_draw
    draws = np.floor(seconds + 0.5).astype(int)
    draws = np.maximum(setting.min_draws, draws)
    return np.repeat(np.arange(len(manifest)), draws)


def train(checkout, loss, manifest, seed, setting, folder):
    """The published network after the published kind of training."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    speakers, labels = np.unique(manifest["spk_id"], return_inverse=True)
    audio, epochs = read(manifest), setting.epochs
    rows = rows_drawn(manifest, setting)
    steps = len(rows) // setting.batch_size
    model, optimizer, margin = build(checkout, loss, setting, len(speakers))
    rates, margins = schedules(
        checkout, model, optimizer, margin, epochs, steps
    )
    print(f"{steps} updates an epoch", flush=True)
    saved, first = folder / "checkpoint.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=False)
        first, rng.bit_generator.state = state["epoch"], state["rng"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(first, epochs):
        started, total = time.perf_counter(), 0.0
        order = rng.permutation(rows)[: steps * setting.batch_size]
        for step, batch in enumerate(order.reshape(steps, -1)):
            rates.step(epoch * steps + step)
            margins.step(epoch * steps + step)
            inputs = [
                features(crop(audio[i], rng, setting.crop)) for i in batch
            ]
            targets = torch.from_numpy(labels[batch])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                embeddings = model(torch.stack(inputs))[-1]
            outputs = projection_of(model, embeddings, targets)
            optimizer.zero_grad()
            outputs.backward()
            optimizer.step()
            total += outputs.item()
        print(
            f"{loss}, seed {seed}, epoch {epoch + 1}: loss "
            f"{total / steps:.4f}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        state = {"epoch": epoch + 1, "rng": rng.bit_generator.state}
        state |= {"model": model.state_dict()}
        state |= {"optimizer": optimizer.state_dict()}
        with atomic_path(saved) as temporary:
            torch.save(state, temporary)
    return model.eval(), audio, labels


def projection_of(model, embeddings, targets):
    """The loss of a batch."""
    outputs = model.projection(embeddings.float(), targets)
    if isinstance(outputs, tuple):
        return outputs[1]
    return torch.nn.functional.cross_entropy(outputs, targets)


@torch.no_grad()
def embed(model, audio):
    """Unit embeddings of whole utterances, one at a time, [utterances, 128]."""
    found = [model(features(samples)[None])[-1][0] for samples in audio]
    return torch.nn.functional.normalize(torch.stack(found)).numpy()


def scores_of(embeddings, cohort, a, b):
    """Scores of trials by cosine and, with the speaker means, AS-norm."""
    nearest = np.sort(embeddings @ cohort.T, axis=1)[:, -TOP_N:]
    mean, std = nearest.mean(1), nearest.std(1)
    cosine = (embeddings[a] * embeddings[b]).sum(1)
    norm = ((cosine - mean[a]) / std[a] + (cosine - mean[b]) / std[b]) / 2
    return {"cosine": cosine, "asnorm": norm}


def verify(embeddings, cohort, test, lists, folder, replicates):
    """Writes score files and results.json, as the recipe's script does."""
    rows = {name: row for row, name in enumerate(test["ID"])}
    speakers = test["spk_id"].to_numpy()
    functions, results = metric_functions(), []
    for path in lists:
        trials, path = read_trials(path), pathlib.Path(path)
        a, b = (
            np.array([rows[name] for name in trials[side]])
            for side in ("enrol", "test")
        )
        targets = trials["target"].to_numpy(dtype=bool, copy=True)
        bootstrap = speaker_bootstrap(
            targets, speakers[a], speakers[b], replicates, 42, path.name
        )
        for name, scores in scores_of(embeddings, cohort, a, b).items():
            written = f"scores_{path.stem}_{name}.txt"
            write_scores(
                folder / written,
                trials["enrol"],
                trials["test"],
                scores,
                targets,
            )
            about = {"trials": path.stem, "scoring": SCORINGS[name]}
            found = evaluate(scores, targets, functions, bootstrap)
            results.append({**about, **found, "scores": written})
    with atomic_write(folder / "results.json") as stream:
        json.dump(results, stream, indent=2)
    return results


def make_parser():
    """The command line."""
    options = parser(__doc__, "one epoch")
    add = options.add_argument
    add("--data_folder", required=True)
    add("--wespeaker", required=True, metavar="CHECKOUT")
    add(
        "--output_folder", type=pathlib.Path, default=ROOT / "results/published"
    )
    add("--losses", nargs="+", default=["asphereface2"], choices=LOSSES)
    add("--seeds", nargs="+", type=int, default=[43, 44])
    add("--epochs", type=int, default=12)
    add("--batch_size", type=int, default=64)
    add("--channels", type=int, default=8, help="of the first stage")
    add("--crop", type=int, default=32240, help="samples; 200 frames")
    add("--seconds_per_draw", type=float, default=1.5)
    add("--min_draws", type=int, default=3)
    add("--bootstrap", type=int, default=1000, help="draws of the speakers")
    return options


def main():
    """Prints the table and writes the record."""
    arguments = make_parser().parse_args()
    if arguments.quick:
        arguments.epochs = 1
    folder = arguments.output_folder
    subprocess.run(
        [sys.executable, RECIPE / "voxceleb_prepare.py"]
        + [f"--data_folder={arguments.data_folder}"]
        + [f"--save_folder={folder}/prepared"],
        check=True,
    )
    training, test = (
        read_manifest(f"{folder}/prepared/{name}.csv")
        for name in ("train", "test")
    )
    lists = sorted(find_trial_lists([arguments.data_folder]), reverse=True)
    print_header()
    record = []
    for loss in arguments.losses:
        for seed in arguments.seeds:
            own_folder = folder / f"{loss}_{seed}"
            own_folder.mkdir(parents=True, exist_ok=True)
            model, audio, labels = train(
                arguments.wespeaker,
                loss,
                training,
                seed,
                arguments,
                own_folder,
            )
            own = embed(model, audio)
            means = [own[labels == s].mean(0) for s in range(labels.max() + 1)]
            cohort = np.stack([m / np.linalg.norm(m) for m in means])
            found = verify(
                embed(model, read(test)),
                cohort,
                test,
                lists,
                own_folder,
                arguments.bootstrap,
            )
            for one in found:
                what = f"published {loss} seed {seed} {one['trials']} "
                what += f"{one['scoring']} EER"
                record.append(row(what, one["EER %"], "%"))
                print_row(record[-1])
    finish(record, arguments.json, arguments.seeds)


if __name__ == "__main__":
    main()
