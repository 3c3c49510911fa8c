#!/usr/bin/env python3
"""What label filters cost a step, and what they find on the toy corpus.

    python benchmarks/label_filters.py [--quick] [--json FILE]

Cost: a step is forward, loss, backward and update of a ResNet34 with 32
channels on 8 crops of 200 frames, with 17,982 classes (VoxCeleb2 at three
speeds). Steps with and without a filter take turns, and the median of the
ratios of pairs counts. Timings need an idle machine.

Effect: the recipe is trained on the toy corpus with 40 % wrong labels
(symmetric, exactly this share of every speaker), without a filter and with
each, by one thread, then clean trials are verified. AUC is that of the weights
of the last epoch against the true labels. The EER with a filter may not be
above the upper end of the 95 % interval of the EER without. And it may not be
the greater one by more than chance: the interval of their difference, over
speakers, may not lie above 0. The same is trained on the true labels, with each
filter and without, and the interval of that difference may not lie above 0
either. --filter=NAME measures one filter alone, and --labels=wrong or
--labels=true half of it. With --quick the networks train for two epochs only,
and no bound is checked.
"""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from record import ROOT, finish, parser, print_header, print_row, row

from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import AAMSoftmax, SphereFace2
from speechbrain_ext.processing.class_scores import ClassScores
from speechbrain_ext.processing.label_filters import FILTERS, make_label_filter
from speechbrain_ext.synthetic.toy_corpus import synthesise_corpus

RECIPE = ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"
CLASSES, BATCH, FRAMES, UTTERANCES = 17982, 8, 200, 10000
DEAREST = 1.05  # a step with a filter / one without
LEAST_AUC = 0.9
LOSSES = {"AAM": AAMSoftmax, "SphereFace2 C": SphereFace2}
# Settings of each filter for 20 speakers and few epochs
TOY = {
    "ORGate": "{kind: ORGate, top_k: 1, warm_up: 5}",
    "LossGate": "{kind: LossGate, warm_up: 6}",
    "LabelCorrection": "{kind: LabelCorrection, confidence: 0.8, warm_up: 6}",
    "SubCenterDrop": "{kind: SubCenterDrop, angle: 50, warm_up: 10}",
}
TRAINING = {
    "number_of_epochs": 14,
    "block_sizes": "[1, 1, 1, 1]",
    "channels": 8,
    "embedding_size": 64,
    "batch_size": 16,
    "sentence_len": 0.8,
    "dev_speakers": 0,
    "initial_lr": 0.05,
    "margin_start_epoch": 7,
    "margin_fix_epoch": 12,
    "min_draws": 1,
    "warmup_epochs": 1,
    "select": "average",
    "average_checkpoints": 2,
    "train_dataloader_opts": "{num_workers: 0}",
}
NOISE = {"label_noise": "{kind: symmetric, rate: 0.4, exact: True}"}


class Step:
    """A step of training, with a filter or without."""

    def __init__(self, make_loss, sub_centers):
        torch.manual_seed(1986)
        self.encoder = ResNet(80, lin_neurons=256, channels=32)
        self.head = CosineClassifier(256, CLASSES, sub_centers)
        self.loss = make_loss()
        modules = self.encoder, self.head, self.loss
        parameters = [p for module in modules for p in module.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)
        self.features = torch.randn(BATCH, FRAMES, 80)
        self.targets = torch.randint(CLASSES, (BATCH, 1))
        self.rows = torch.randint(UTTERANCES, (BATCH,))

    def seconds(self, label_filter=None):
        """Makes a step and returns its duration."""
        started = time.perf_counter()
        outputs = self.head(self.encoder(self.features))
        targets, weights = self.targets, None
        if label_filter is not None:
            scores = ClassScores(outputs, targets, None, self.head.sub_cosines)
            weights, labels = label_filter(scores, self.rows, 1.0)
            targets = targets if labels is None else labels.unsqueeze(1)
        self.loss(outputs, targets, weights=weights).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - started


def cost(name, make_loss, pairs):
    """Median of the time of a step with a filter by that of one without."""
    step = Step(make_loss, 3 if name == "SubCenterDrop" else 1)
    made = make_label_filter({"kind": name, "warm_up": 0})
    made.start(UTTERANCES, CLASSES, step.loss, step.head)
    for one in (None, made):
        step.seconds(one)
    ratios = []
    for number in range(pairs):
        if number % 2:
            found = step.seconds(made), step.seconds()
        else:
            without = step.seconds()
            found = step.seconds(made), without
        ratios.append(found[0] / found[1])
    return statistics.median(ratios)


def run(*words, **options):
    """Runs a script of the recipe; returns nothing, or ends with its error."""
    flags = [f"--{key}={value}" for key, value in options.items()]
    done = subprocess.run(
        [sys.executable, *words, *flags],
        cwd=RECIPE,
        # rounding, and so a training, depends on the number of threads
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])


def trained(corpus, folder, yaml, epochs, label_filter, noise):
    """AUC of the weights, EER and its interval after a run of the recipe."""
    options = TRAINING | {"data_folder": corpus, "output_folder": folder}
    options |= noise
    if epochs:
        options["number_of_epochs"] = epochs
        options |= {"margin_start_epoch": 1, "margin_fix_epoch": 2}
    if label_filter:
        if epochs:  # the filter must begin before the training ends
            label_filter = re.sub(r"warm_up: \d+", "warm_up: 1", label_filter)
        options["label_filter"] = label_filter
    script, yaml = "train_speaker_embeddings.py", f"hparams/{yaml}"
    run(script, yaml, "--device=cpu", **options)
    verification = {
        "data_folder": corpus,
        "pretrained_folder": folder / "pretrained",
        "output_folder": folder / "verified",
        "num_workers": 0,
        "scorings": "[cosine]",
        "calibrate": "[]",
    }
    script = "speaker_verification_cosine.py"
    yaml = "hparams/verification_resnet_small.yaml"
    run(script, yaml, "--device=cpu", **verification)
    result = json.loads((folder / "verified" / "results.json").read_text())[0]
    last = (folder / "epochs.jsonl").read_text().splitlines()[-1]
    auc = json.loads(last).get("train filter AUC")
    return auc, result["EER %"], result["EER % interval"]


def difference(folder, other):
    """The EER of a run less that of another one, with its interval."""
    found = folder / "difference.json"
    scores = [
        next((place / "verified").glob("scores_*")) for place in (folder, other)
    ]
    run("compare_systems.py", *map(str, scores), json=found)
    values = json.loads(found.read_text())["EER %"]
    return values["difference"], [round(end, 4) for end in values["interval"]]


def effects(folder, epochs, names, labels):
    """Yields rows: EER without a filter, and AUC and EER with each."""
    corpus = synthesise_corpus(
        folder / "corpus",
        train_speakers=20,
        test_speakers=12,
        sessions=3,
        utterances=4 if epochs else 24,
        seconds=(0.8, 1.4),
        trials=400 if epochs else 2000,
    )
    auc_bound, zero = (None, None) if epochs else (LEAST_AUC, 0.0)
    highest, done = {}, set()
    for name in names:
        centers = "_subcenter" if name == "SubCenterDrop" else ""
        yaml = f"resnet_aam{centers}_small.yaml"
        what = "sub-centers" if centers else "AAM"
        for kind in labels:
            noise = NOISE if kind == "wrong" else {}
            where = "" if noise else " on true labels"
            without = folder / f"{kind}{centers}"
            if without not in done:
                _, eer, ends = trained(corpus, without, yaml, epochs, "", noise)
                done.add(without)
                yield row(f"EER{where} without a filter, {what}", eer, "%")
                if noise:
                    highest[yaml] = ends[1]
                    label = f"upper end of its interval, {what}"
                    yield row(label, ends[1], "%")
            place = folder / f"{kind}_{name}"
            auc, eer, _ = trained(corpus, place, yaml, epochs, TOY[name], noise)
            if noise:
                label = f"AUC of the weights, {name}"
                yield row(label, auc, "", auc_bound, True, 4)
            bound = round(highest[yaml], 2) if noise and not epochs else None
            yield row(f"EER{where} with {name}", eer, "%", bound)
            less = f"EER{where} with {name} less that without"
            points, ends = difference(place, without)
            yield row(less, points, "points") | {"interval": ends}
            lowest = f"lower end of its interval{where}, {name}"
            yield row(lowest, ends[0], "points", zero)


def main():
    made = parser(__doc__, "few steps and epochs, held to no bound")
    made.add_argument("--part", choices=["cost", "effect"], help="only this")
    made.add_argument("--filter", choices=FILTERS, help="only this")
    made.add_argument("--labels", choices=["wrong", "true"], help="only these")
    options = made.parse_args()
    print_header()
    record, names = [], [options.filter] if options.filter else list(FILTERS)

    def keep(one):
        print_row(one)
        record.append(one)

    if options.part != "effect":
        pairs = 2 if options.quick else 30
        bound = None if options.quick else DEAREST
        for name in names:
            for loss, make_loss in LOSSES.items():
                label = f"step with {name} / without, {loss}"
                ratio = cost(name, make_loss, pairs)
                keep(row(label, ratio, "ratio", bound, digits=3))
    if options.part != "cost":
        with tempfile.TemporaryDirectory() as folder:
            epochs = 2 if options.quick else None
            labels = [options.labels] if options.labels else ["wrong", "true"]
            place = pathlib.Path(folder)
            for one in effects(place, epochs, names, labels):
                keep(one)
    finish(record, options.json, seed=42)


if __name__ == "__main__":
    main()
