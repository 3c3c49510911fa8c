#!/usr/bin/env python3
"""Speed and memory of embedding files, by torch and by onnxruntime.

    python benchmarks/inference.py [--data_folder FOLDER] [--quick] \
        [--json FILE]

The network is the ResNet34 with 32 channels, with random weights of one seed.
Files of FOLDER (wav or flac, in any folders; without FOLDER a toy corpus) are
read and embedded one by one and in batches, on all cores: by SpeakerVerifier,
by SpeechBrain's EncoderClassifier with the same network, and by onnxruntime
with 32 and 8 bits. The variants take turns. A row has the median of the rounds
and their range. An ONNX graph has no lengths, so its batches have utterances
of one length. At the end a process embeds a file of one hour, and its peak
memory is measured.
"""

import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import soundfile
import torch
from record import ROOT, finish, parser, print_header, print_row, row
from speechbrain.dataio.batch import batch_pad_right
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier

from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.inference.embedding import embed_utterances
from speechbrain_ext.inference.export import export_pretrained
from speechbrain_ext.inference.speaker import SpeakerVerifier
from speechbrain_ext.integrations.onnx import export_onnx, onnx_session
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.synthetic.toy_corpus import synthesise_corpus

RATE = 16000
BATCH_SECONDS = 16  # the default
PADDED = 4  # utterances in a padded batch of SpeechBrain's interface
RECIPE = """\
compute_features: !new:speechbrain_ext.lobes.features.KaldiFbank
    n_mels: 80
mean_var_norm: !new:speechbrain_ext.lobes.features.SentenceMeanNorm
embedding_model: !new:speechbrain_ext.lobes.models.ResNet.ResNet
    input_size: 80
    channels: {channels}
    lin_neurons: 256
classifier: !name:torch.nn.Identity
"""
LONG = """
import json, sys, time

def peak():  # ru_maxrss would have the memory of the process that forked
    with open("/proc/self/status") as status:
        kib = next(line for line in status if line.startswith("VmHWM"))
    return 1024e-6 * int(kib.split()[1])

import torch, speechbrain
found = {"imports": peak()}
from speechbrain_ext.inference.speaker import SpeakerVerifier
verifier = SpeakerVerifier.from_folder(sys.argv[1])
found["loaded"], start = peak(), time.perf_counter()
verifier.encode_stream(sys.argv[2])
found |= {"peak": peak(), "seconds": time.perf_counter() - start}
print(json.dumps(found))
"""


def make_encoder(folder, channels):
    """Exports a ResNet34 with random weights and statistics of noise."""
    torch.manual_seed(0)
    model = ResNet(80, channels=channels, lin_neurons=256).train()
    with torch.no_grad():
        for _ in range(5):
            model(4 * torch.randn(4, 100, 80))
    modules = {"embedding_model": model, "classifier": torch.nn.Identity()}
    labels = CategoricalEncoder()
    labels.update_from_iterable([])
    recipe = RECIPE.format(channels=channels)
    return str(export_pretrained(folder, recipe, modules, labels, 256))


def utterances(folder, number, work):
    """Evenly spaced utterances of a folder, as a manifest."""
    if folder is None:
        folder = work / "corpus"
        synthesise_corpus(str(folder), workers=1)
    files = sorted(
        path for end in ("wav", "flac") for path in folder.rglob(f"*.{end}")
    )
    if not files:
        sys.exit(f"{folder} has no wav or flac files; name another folder.")
    files = files[:: max(len(files) // number, 1)][:number]
    frames = [soundfile.info(path).frames for path in files]
    return pd.DataFrame(
        {
            "ID": [str(number) for number in range(len(files))],
            "wav": [str(path) for path in files],
            "start": 0,
            "stop": frames,
            "duration": [count / RATE for count in frames],
        }
    )


def torch_variants(folder, table):
    """Ways to embed with torch, by their names."""
    ours = SpeakerVerifier.from_folder(folder)
    theirs = EncoderClassifier.from_hparams(source=folder)

    def padded():
        for first in range(0, len(table), PADDED):
            files = table["wav"][first : first + PADDED]
            wavs, lengths = batch_pad_right(list(map(theirs.load_audio, files)))
            yield theirs.encode_batch(wavs, lengths)[:, 0]

    sorted_batches = (
        f"SpeakerVerifier, length-sorted batches of {BATCH_SECONDS} s"
    )
    return {
        "SpeakerVerifier, one by one": lambda: torch.cat(
            [ours.encode_stream(path)[0] for path in table["wav"]]
        ),
        sorted_batches: lambda: embed_utterances(ours, table, BATCH_SECONDS),
        "EncoderClassifier, one by one": lambda: torch.cat(
            [
                theirs.encode_batch(theirs.load_audio(path)[None])[0]
                for path in table["wav"]
            ]
        ),
        f"EncoderClassifier, padded batches of {PADDED}": lambda: torch.cat(
            list(padded())
        ),
    }


def onnx_variants(folder, table, work):
    """Ways to embed with onnxruntime, by their names."""
    if importlib.util.find_spec("onnxruntime") is None:
        print("onnxruntime is left out: it is not installed")
        return {}
    mods = SpeakerVerifier.from_folder(folder).mods
    found = {}
    for name, int8 in (("float32", False), ("int8", True)):
        path = work / f"{name}.onnx"
        export_onnx(mods, path, int8=int8)
        session = onnx_session(path, threads=torch.get_num_threads())
        for how, batches in (
            ("one by one", [[number] for number in range(len(table))]),
            (
                f"batches of one length of {BATCH_SECONDS} s",
                equal_lengths(table),
            ),
        ):
            found[f"onnxruntime {name}, {how}"] = functools.partial(
                embed_by_session, session, table, batches
            )
    return found


def equal_lengths(table):
    """Rows in batches of one length."""
    batches = []
    for frames, part in table.groupby("stop"):
        most = max(BATCH_SECONDS * RATE // frames, 1)
        rows = part.index.tolist()
        batches += [rows[i : i + most] for i in range(0, len(rows), most)]
    return batches


def embed_by_session(session, table, batches):
    """Embeddings by onnxruntime, in the order of the table."""
    found = [None] * len(table)
    for rows in batches:
        wavs = torch.stack([read_audio(table["wav"][one]) for one in rows])
        made = session.run(["embs"], {"wavs": wavs.numpy()})[0]
        for number, embedding in zip(rows, made, strict=True):
            found[number] = torch.from_numpy(embedding)
    return torch.stack(found)


def cosines(embeddings):
    """Cosines of all pairs of utterances."""
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    return unit @ unit.T


def compare(variants, table, rounds):
    """Yields the rows of speeds, and of differences of cosines."""
    seconds, found = {name: [] for name in variants}, {}
    for _ in range(rounds):
        for name, embed in variants.items():
            start = time.perf_counter()
            with torch.inference_mode():
                found[name] = embed()
            seconds[name].append(time.perf_counter() - start)
    speech = table["duration"].sum()
    for name, taken in seconds.items():
        rates = [len(table) / one for one in taken]
        yield row(name, statistics.median(rates), "utterances/s") | {
            "range": [round(min(rates), 2), round(max(rates), 2)]
        }
        factor = statistics.median(taken) / speech
        yield row(f"{name}, real-time factor", factor, "", digits=5)
    first = cosines(next(iter(found.values())))
    for name, embeddings in list(found.items())[1:]:
        worst = (cosines(embeddings) - first).abs().max().item()
        bound = None if "int8" in name else 1e-4
        name = f"{name}, largest difference"
        yield row(name, worst, "cosine", bound, digits=8)


def write_long(path, table, seconds):
    """Writes a file with all utterances, one after another, in circles."""
    left = seconds * RATE
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        while left:
            for one in table["wav"]:
                signal = read_audio(one).numpy()[:left]
                file.write(signal)
                left -= len(signal)


def long_file(folder, table, minutes, work):
    """Yields the rows of a long file."""
    path = work / "long.wav"
    write_long(path, table, 90)
    verifier = SpeakerVerifier.from_folder(folder)
    found = verifier.encode_stream(path)
    whole = verifier.encode_batch(verifier.load_audio(path)[None])
    error = ((found - whole).abs().max() / whole.abs().max()).item()
    name = "90 s in blocks and whole, largest relative difference"
    yield row(name, error, "", 1e-5, digits=8)
    write_long(path, table, 60 * minutes)
    done = subprocess.run(
        [sys.executable, "-c", LONG, folder, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    yield row("torch and SpeechBrain imported, memory", found["imports"], "MB")
    yield row("encoder loaded, peak memory", found["loaded"], "MB")
    name = f"{minutes} minutes"
    yield row(f"{name}, peak memory", found["peak"], "MB", 1000)
    factor = found["seconds"] / (60 * minutes)
    yield row(f"{name}, real-time factor", factor, "", digits=5)


def measure(arguments, work):
    """Yields rows."""
    quick = arguments.quick
    table = utterances(arguments.data_folder, 6 if quick else 100, work)
    folder = make_encoder(work / "pretrained", 8 if quick else 32)
    yield row("utterances", len(table), "utterances")
    yield row("speech", table["duration"].sum(), "s")
    variants = torch_variants(folder, table)
    variants |= onnx_variants(folder, table, work)
    yield from compare(variants, table, 1 if quick else 3)
    yield from long_file(folder, table, 2 if quick else 60, work)


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "6 files, 8 channels, 2 minutes, one thread")
    options.add_argument("--data_folder", type=Path)
    arguments = options.parse_args()
    print_header()
    torch.set_num_threads(1 if arguments.quick else os.cpu_count())
    record = []
    with tempfile.TemporaryDirectory() as work:
        for one in measure(arguments, Path(work)):
            print_row(one)
            record.append(one)
    finish(record, arguments.json)


if __name__ == "__main__":
    main()
