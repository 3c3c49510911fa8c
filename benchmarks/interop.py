#!/usr/bin/env python3
"""Exported encoders in other interfaces and runtimes, compared with torch.

    python benchmarks/interop.py --pretrained_folder=FOLDER \
        --data_folder=CORPUS [--trials veri_O.txt] [--quick] [--json FILE]

CORPUS has VoxCeleb's layout: wav/<id>.wav and meta/<trial list>. The folder's
front end has to be KaldiFbank with 80 filters and its defaults. Every
utterance of the trials is embedded by torch; by the evaluation of the training
script, in padded batches; by SpeechBrain's and this package's interfaces; by
both ONNX forms, by int8 and by each runtime whose package is installed (extra
`interop`). The command speechbrain-ext verifies ten trials. Rows say by how
much cosines and the equal error rate differ from torch's. sherpa-onnx has
another front end, so it is compared with torch's embeddings from that one, and
the loss by the other front end has rows of its own.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pandas as pd
import soundfile
import speechbrain
import torch
from record import ROOT, finish, parser, print_header, print_row, row
from speechbrain.inference.speaker import SpeakerRecognition

from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.inference.embedding import utterance_loader
from speechbrain_ext.inference.loading import load_encoder
from speechbrain_ext.inference.speaker import SpeakerVerifier
from speechbrain_ext.integrations.onnx import (
    ExportedEncoder,
    export_onnx,
    onnx_session,
)
from speechbrain_ext.lobes.features import KaldiFbank
from speechbrain_ext.utils.metrics import EER

RECIPE = ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"
COMMANDS = 10  # trials that the command verifies
SHERPA = {"window": "povey", "high_freq": -400.0, "snip_edges": False}


def sherpa_runtime(path):
    """Embeds by sherpa-onnx."""
    sherpa = importlib.import_module("sherpa_onnx")
    config = sherpa.SpeakerEmbeddingExtractorConfig(model=path)
    extractor = sherpa.SpeakerEmbeddingExtractor(config)

    def embed(wav):
        stream = extractor.create_stream()
        stream.accept_waveform(16000, wav.numpy())
        stream.input_finished()
        return extractor.compute(stream)

    return embed


def wespeaker_runtime(path):
    """Embeds by wespeakerruntime, which opens a file by torchaudio.load."""
    import torchaudio

    module = importlib.import_module("wespeakerruntime")
    speaker = module.Speaker(onnx_path=path)

    def embed(wav):
        torchaudio.load = lambda _: (wav[None], 16000)  # needs no FFmpeg
        return speaker.extract_embedding("")

    return embed


def pyannote_runtime(path):
    """Embeds by pyannote.audio, which knows a runtime by the file's name."""
    module = importlib.import_module(
        "pyannote.audio.pipelines.speaker_verification"
    )
    pipeline = module.ONNXWeSpeakerPretrainedSpeakerEmbedding(path)
    return lambda wav: pipeline(wav[None, None])


def onnx_runtime(path, front_end=None):
    """Embeds by onnxruntime."""
    session = onnx_session(path)
    name = session.get_inputs()[0].name

    def embed(wav):
        x = wav[None] if front_end is None else front_end(wav[None])
        return session.run(["embs"], {name: x.numpy()})[0]

    return embed


def embeddings_by(embed, wavs):
    """Normalised embeddings, a row an utterance."""
    with torch.no_grad():
        found = [torch.as_tensor(embed(wav)).flatten() for wav in wavs]
    return torch.nn.functional.normalize(torch.stack(found).double(), dim=1)


class Trials:
    """A trial list and the waveforms in it."""

    def __init__(self, folder, name, quick):
        trials = read_trials(f"{folder}/meta/{name}")
        if quick:
            trials = trials[:20]
        ids = sorted({*trials["enrol"], *trials["test"]})
        number = {one: index for index, one in enumerate(ids)}
        self.enrol = [number[one] for one in trials["enrol"]]
        self.test = [number[one] for one in trials["test"]]
        self.target = torch.tensor(trials["target"].to_numpy())
        self.paths = [f"{folder}/wav/{one}.wav" for one in ids]
        self.wavs = [
            torch.from_numpy(soundfile.read(path, dtype="float32")[0])
            for path in self.paths
        ]

    def cosines(self, embeddings):
        """Cosines of the trials."""
        return (embeddings[self.enrol] * embeddings[self.test]).sum(dim=1)

    def eer(self, embeddings):
        """Equal error rate of cosines, %."""
        return self.rate(self.cosines(embeddings))

    def rate(self, scores):
        """Equal error rate of scores, %."""
        return 100 * EER(scores[self.target], scores[~self.target])[0]


def compare(trials, name, found, expected):
    """The row of a runtime that must give torch's cosines."""
    differences = trials.cosines(found) - trials.cosines(expected)
    largest = differences.abs().max().item()
    return row(f"{name}, largest difference", largest, "cosine", 1e-4, digits=8)


def by_training(trials, mods):
    """Embeds as the training script does in its evaluation."""
    sys.path.insert(0, str(RECIPE))
    script = importlib.import_module("train_speaker_embeddings")
    modules = {name: torch.nn.Identity() for name in script.TRAINED} | {
        "compute_features": mods["compute_features"].front_end,
        "mean_var_norm": mods["mean_var_norm"],
        "embedding_model": mods["embedding_model"],
    }
    brain = script.SpeakerBrain([], modules=modules)
    brain.modules.eval()
    samples = [len(wav) for wav in trials.wavs]
    manifest = pd.DataFrame({"ID": trials.paths, "wav": trials.paths})
    manifest = manifest.assign(start=0, stop=samples)
    manifest["duration"] = manifest["stop"] / 16000
    found = [None] * len(manifest)
    with torch.no_grad():
        for batch in utterance_loader(manifest):
            rows = torch.as_tensor(batch.row).tolist()
            made = brain.compute_forward(batch, speechbrain.Stage.VALID)
            for number, embedding in zip(rows, made[:, 0], strict=True):
                found[number] = embedding
    return torch.nn.functional.normalize(torch.stack(found).double(), dim=1)


def interfaces(trials, mods, folder, expected):
    """Yields the rows of this project's and SpeechBrain's interfaces."""
    found = by_training(trials, mods)
    yield compare(trials, "the training's evaluation", found, expected)
    theirs = SpeakerRecognition.from_hparams(source=folder)
    found = embeddings_by(
        lambda path: theirs.encode_batch(theirs.load_audio(path)[None]),
        trials.paths,
    )
    yield compare(trials, "SpeakerRecognition", found, expected)
    ours = SpeakerVerifier.from_folder(folder)
    found = embeddings_by(ours.encode_stream, trials.paths)
    yield compare(trials, "SpeakerVerifier", found, expected)
    if importlib.util.find_spec("speechbrain_ext.cli") is None:
        print("the command is left out: this version has none")
    else:
        yield by_command(trials, folder, expected)


def by_command(trials, folder, expected):
    """The row of `speechbrain-ext verify`, on the first trials."""
    scores = []
    for pair in zip(trials.enrol[:COMMANDS], trials.test, strict=False):
        paths = [trials.paths[number] for number in pair]
        words = ["verify", *paths, "--encoder", folder, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "speechbrain_ext", *words],
            capture_output=True,
            text=True,
            check=False,  # the exit code is the decision
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        scores.append(json.loads(done.stdout)["cosine"])
    differences = torch.tensor(scores) - trials.cosines(expected)[:COMMANDS]
    largest = differences.abs().max().item()
    name = "speechbrain-ext verify, largest difference"
    return row(name, largest, "cosine", 1e-4, digits=8)


def sherpa_manager(trials, found, expected):
    """The row of sherpa-onnx's enrolment, on the first trials."""
    sherpa = importlib.import_module("sherpa_onnx")
    manager, scores = sherpa.SpeakerEmbeddingManager(found.shape[1]), []
    for one, other in zip(trials.enrol[:COMMANDS], trials.test, strict=False):
        manager.add("one", found[one].float().tolist())
        scores.append(manager.score("one", found[other].float().tolist()))
        manager.remove("one")
    differences = torch.tensor(scores) - trials.cosines(expected)[:COMMANDS]
    largest = differences.abs().max().item()
    name = "SpeakerEmbeddingManager, largest difference"
    return row(name, largest, "cosine", 1e-4, digits=8)


def other_front_end(trials, hamming, povey):
    """The rows of what an encoder loses with a front end that is not its."""
    same = (hamming * povey).sum(dim=1)
    cosines = (hamming[trials.enrol] * povey[trials.test]).sum(dim=1)
    return [
        row("both front ends, mean", same.mean().item(), "cosine", digits=4),
        row("both front ends, lowest", same.min().item(), "cosine", digits=4),
        row("its own front end", trials.eer(hamming), "EER %"),
        row("sherpa-onnx's front end", trials.eer(povey), "EER %"),
        row("enrolled by the one", trials.rate(cosines), "EER %"),
    ]


def eight_bits(trials, found, expected):
    """The rows of int8."""
    whole, small = trials.eer(expected), trials.eer(found)
    same = (found * expected).sum(dim=1)
    rows = [
        row("int8 and torch, lowest", same.min().item(), "cosine", digits=4),
        row("int8", small, "EER %"),
    ]
    if whole:
        change = 100 * (small / whole - 1)  # may be at most 5 %
        rows.append(row("int8, relative change", change, "%", 5))
    return rows


def measure(trials, mods, pretrained, folder):
    """Yields rows."""
    paths = {
        "waveform": f"{folder}/waveform.onnx",
        "features": f"{folder}/wespeaker.onnx",
        "int8": f"{folder}/int8.onnx",
    }
    export_onnx(mods, paths["waveform"])
    export_onnx(mods, paths["features"], "features")
    export_onnx(mods, paths["int8"], int8=True)
    own = ExportedEncoder(mods)
    other = ExportedEncoder(
        dict(mods) | {"compute_features": KaldiFbank(80, **SHERPA)}
    )
    hamming = embeddings_by(lambda wav: own(wav[None]), trials.wavs)
    povey = embeddings_by(lambda wav: other(wav[None]), trials.wavs)
    yield from interfaces(trials, mods, pretrained, hamming)
    yield from other_front_end(trials, hamming, povey)
    embed = onnx_runtime(paths["int8"])
    yield from eight_bits(trials, embeddings_by(embed, trials.wavs), hamming)
    runtimes = {
        "onnxruntime, waveforms": (
            lambda: onnx_runtime(paths["waveform"]),
            hamming,
        ),
        "onnxruntime, features": (
            lambda: onnx_runtime(paths["features"], KaldiFbank(80)),
            hamming,
        ),
        "sherpa-onnx": (lambda: sherpa_runtime(paths["features"]), povey),
        "wespeakerruntime": (
            lambda: wespeaker_runtime(paths["features"]),
            hamming,
        ),
        "pyannote.audio": (
            lambda: pyannote_runtime(paths["features"]),
            hamming,
        ),
    }
    for name, (make, expected) in runtimes.items():
        try:
            embed = make()
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        found = embeddings_by(embed, trials.wavs)
        yield compare(trials, name, found, expected)
        if name == "sherpa-onnx":
            yield sherpa_manager(trials, found, expected)


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "twenty trials")
    options.add_argument("--pretrained_folder", required=True)
    options.add_argument("--data_folder", required=True, type=pathlib.Path)
    options.add_argument("--trials", default="veri_O.txt")
    arguments = options.parse_args()
    print_header()
    trials = Trials(arguments.data_folder, arguments.trials, arguments.quick)
    pretrained = arguments.pretrained_folder
    mods = load_encoder(pretrained).mods
    record = []
    with tempfile.TemporaryDirectory() as folder:
        for one in measure(trials, mods, pretrained, folder):
            print_row(one)
            record.append(one)
    finish(record, arguments.json)


if __name__ == "__main__":
    main()
