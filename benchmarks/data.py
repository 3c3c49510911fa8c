#!/usr/bin/env python3
"""Speed of preparation, conversion, shards and loading, and kill tests.

    python benchmarks/data.py --data_folder=MINIVOX [--quick] [--json FILE] \
        [--only PART ...] \
        [--speechbrain_prepare=speechbrain/recipes/VoxCeleb/voxceleb_prepare.py]

Preparation is timed on MiniVox and on 100,000 small files that the benchmark
writes. Each run has its own process, for its peak memory, and a warm page
cache; imports are not timed. SpeechBrain's own script (from its repository, at
the installed version) is timed on the same files, with whole utterances and no
test split, which is its least work. The loader reads crops of two seconds from
MiniVox with a warm page cache, with and without augmentation (speeds, noise,
babble and rooms); the best of three rounds counts. Finally, preparation,
conversion and sharding are killed at ten random moments each and run again.
The results are compared byte by byte with an undisturbed run.
"""

import contextlib
import importlib.util
import multiprocessing
import pathlib
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile
import torch
from record import ROOT, finish, parser, print_header, print_row, row

from speechbrain_ext.augment.noise import NoiseAndReverberation
from speechbrain_ext.dataio.crops import CropDataset, Draw
from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.samplers import CropSampler
from speechbrain_ext.dataio.shards import write_shards
from speechbrain_ext.dataio.transcoding import convert_corpus

VOXCELEB = 1.24e6  # files of VoxCeleb1 and 2
VOXCELEB2 = 1.09e6  # m4a files of VoxCeleb2
SPEEDUP = 15  # bound, relative to SpeechBrain's preparation on MiniVox
PARTS = ("preparation", "writing", "loading", "kills")
SPEEDS = (1.0, 0.9, 1.1)


def script(path):
    """Imports a Python file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare(source, target):
    """Runs our preparation."""
    recipe = ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"
    module = script(recipe / "voxceleb_prepare.py")
    module.prepare_voxceleb(str(source), str(target))


def prepare_theirs(path, source, target):
    """Runs SpeechBrain's preparation of the same files."""
    pairs = next(iter(sorted(source.glob("meta/veri*.txt"))))
    script(path).prepare_voxceleb(
        str(source),
        str(target),
        str(pairs),
        splits=["train", "dev"],
        random_segment=True,
    )


def timed(work, *arguments):
    """Seconds and mebibytes of a function call in its own process."""

    def measure(pipe):
        with open("/dev/null", "w") as nowhere:
            with contextlib.redirect_stderr(nowhere):
                with contextlib.redirect_stdout(nowhere):
                    before = peak()
                    started = time.perf_counter()
                    work(*arguments)
                    seconds = time.perf_counter() - started
        pipe.send((seconds, before, peak()))

    def peak():
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024

    here, there = multiprocessing.Pipe()
    process = CONTEXT.Process(target=measure, args=(there,))
    process.start()
    there.close()
    seconds, before, most = here.recv()
    process.join()
    return seconds, most - before


CONTEXT = multiprocessing.get_context("fork")


def small_files(folder, count):
    """Writes wav files of 0.1 s, 100 per speaker."""
    samples = 1600
    header = struct.pack("<4sI4s", b"RIFF", 36 + 2 * samples, b"WAVE")
    header += struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    header += struct.pack("<4sI", b"data", 2 * samples)
    noise = np.random.default_rng(0).integers(-99, 99, samples, dtype="<i2")
    for session in range(count // 10):
        place = folder / "wav" / f"id{session // 10:05}" / f"s{session % 10}"
        place.mkdir(parents=True)
        for number in range(10):
            (place / f"{number:05}.wav").write_bytes(header + noise.tobytes())
    (folder / "meta").mkdir()
    names = [f"id00000/s{n}/00000.wav" for n in (0, 1)]
    names.append("id00001/s0/00000.wav")
    (folder / "meta" / "veri_small.txt").write_text(
        f"1 {names[0]} {names[1]}\n0 {names[0]} {names[2]}\n"
    )
    return folder


def preparation(trees, theirs, folder):
    """Rows of preparation, ours and SpeechBrain's."""
    for name, tree in trees.items():
        paths = list((tree / "wav").rglob("*.wav"))
        files = len(paths)
        for path in paths:
            path.read_bytes()  # a warm page cache for both
        runs = [timed(prepare, tree, folder / f"{name}{n}") for n in range(3)]
        seconds, most = sorted(runs)[1]
        yield row(f"{name}: files", files, "files")
        yield row(f"{name}: prepared", files / seconds, "files/s")
        yield row(f"{name}: peak memory beyond the imports", most, "MiB")
        if name != "MiniVox":
            yield row(
                f"{name}: as much a file for 1.24 M files",
                VOXCELEB / files * most,
                "MiB",
            )
        yield row(
            f"{name}: at this pace 1.24 M files",
            VOXCELEB / files * seconds / 60,
            "min",
        )
        if theirs is None:
            continue
        other, most = timed(prepare_theirs, theirs, tree, folder / f"{name}sb")
        yield row(f"{name}: prepared by SpeechBrain", files / other, "files/s")
        yield row(f"{name}: SpeechBrain's peak memory", most, "MiB")
        yield row(
            f"{name}: times as fast",
            other / seconds,
            "x",
            SPEEDUP if name == "MiniVox" else None,
            at_least=True,
        )


def rooms(folder):
    """Writes impulse responses: noise that decays in half a second."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        time_axis = np.arange(8000) / 16000
        response = rng.normal(0, 1, 8000) * 10 ** (-6 * time_axis)
        response[0] = 5
        soundfile.write(folder / f"{number}.wav", response / 20, 16000)
    return folder


def noises(manifest, data_folder, folder):
    """Links the noises of MiniVox, and some utterances as babble."""
    kinds = {
        "noise": sorted((data_folder / "noise").glob("*.*")),
        "speech": [pathlib.Path(wav) for wav in manifest["wav"].head(200)],
    }
    for kind, paths in kinds.items():
        (folder / kind).mkdir(parents=True)
        for number, path in enumerate(paths):
            link = folder / kind / f"{number}{path.suffix}"
            link.symlink_to(path.resolve())
    return folder


def loading(manifest, data_folder, folder, seconds):
    """Rows of the loader: utterances per second."""
    sharded = write_shards(manifest, folder / "shards")
    augment = NoiseAndReverberation(
        noises(manifest, data_folder, folder / "musan"), rooms(folder / "rooms")
    )
    for path in [*manifest["wav"], *(folder / "shards").glob("*.tar")]:
        pathlib.Path(path).read_bytes()  # do not time the disk
    for where, table in (("files", manifest), ("shards", sharded)):
        for how in ("plain", "augmented"):
            chosen = augment if how == "augmented" else None
            cost = cpu_time(table, chosen, 50 if seconds < 2 else 600)
            yield row(f"{how} crop from {where}", cost, "ms of a core")
            for workers in (1, 2, 4):
                rate = pace(table, chosen, workers, seconds)
                name = f"{how} crops from {where}, {workers} workers"
                yield row(name, rate, "utterances/s")


def crops(manifest, augment):
    """Crops of two seconds, with three speeds if they are augmented."""
    speeds = SPEEDS if augment else (1.0,)
    labels = np.zeros((len(manifest), len(speeds)), dtype=int)
    return CropDataset(manifest, labels, 2.0, 1, speeds=speeds, augment=augment)


def cpu_time(manifest, augment, count):
    """Milliseconds of processor time per crop."""
    dataset = crops(manifest, augment)
    for epoch in (1, 2):
        started = time.process_time()
        for number in range(count):
            dataset[Draw(number % len(manifest), epoch, 0)]
    return 1000 * (time.process_time() - started) / count


def pace(manifest, augment, workers, seconds):
    """Utterances per second of a loader: the best of three rounds."""
    loader = torch.utils.data.DataLoader(
        crops(manifest, augment),
        batch_sampler=CropSampler(manifest, 64, 1, min_draws=50),
        num_workers=workers,
    )
    loader, rounds = iter(loader), []
    for _ in range(2 * workers):
        next(loader)
    for _ in range(3):
        started, read = time.perf_counter(), 0
        while time.perf_counter() - started < seconds / 3:
            read += len(next(loader)["id"])
        rounds.append(read / (time.perf_counter() - started))
    return max(rounds)


def contents(folder):
    """Name and bytes of every result below a folder.

    The lock and the journal are left out: the lock has the number of a
    process, and the journal a line for each attempt.
    """
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".speechbrain_ext")
    }


def survived(work, source, folder, kills, seed):
    """Number of killed runs that end with the same bytes when run again."""
    started = time.perf_counter()
    alone = CONTEXT.Process(target=work, args=(source, folder / "alone"))
    alone.start()
    alone.join()
    taken = time.perf_counter() - started
    expected = contents(folder / "alone")
    moments, good, caught = random.Random(seed), 0, 0
    while caught < kills:
        target = folder / f"{caught}"
        process = CONTEXT.Process(target=work, args=(source, target))
        process.start()
        process.join(moments.uniform(0.02, 0.95) * taken)
        process.kill()
        process.join()
        if not process.exitcode:  # it ended before the kill: try again
            shutil.rmtree(target)
            continue
        caught += 1
        again = CONTEXT.Process(target=work, args=(source, target))
        again.start()
        again.join()
        good += contents(target) == expected
        shutil.rmtree(target)
    return good


def quiet(work):
    """Wraps a function to discard what it prints."""

    def silent(source, target):
        with open("/dev/null", "w") as nowhere:
            with contextlib.redirect_stderr(nowhere):
                with contextlib.redirect_stdout(nowhere):
                    work(source, target)

    return silent


def kills(trees, manifest, converted, folder, count):
    """Rows of the kill tests."""
    works = {
        "preparation": (prepare, list(trees.values())[-1]),
        "sharding": (lambda table, to: write_shards(table, to, 100), manifest),
    }
    if converted is not None:
        works["conversion"] = (convert_corpus, converted)
    for name, (work, source) in works.items():
        place = folder / f"killed_{name}"
        place.mkdir()
        good = survived(quiet(work), source, place, count, name)
        yield row(
            f"{name}: {count} runs killed, same bytes when run again",
            good,
            "runs",
            count,
            at_least=True,
        )


def aac_files(manifest, folder, count):
    """Converts some of MiniVox to m4a, in VoxCeleb2's layout."""
    for name, wav in manifest[["ID", "wav"]].head(count).to_numpy():
        path = folder / "dev" / "aac" / f"{name}.m4a"
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", wav, str(path)]
        subprocess.run(command, check=True)
    return folder


def writing(manifest, converted, folder):
    """Rows of conversion and of shards."""
    if converted is not None:
        seconds, _ = timed(convert_corpus, converted, folder / "wav")
        files = sum(1 for _ in converted.rglob("*.m4a"))
        yield row("m4a converted", files / seconds, "files/s")
        hours = VOXCELEB2 / files * seconds / 3600
        yield row("at this pace 1.09 M files", hours, "h")
    seconds, _ = timed(write_shards, manifest, folder / "written")
    yield row("shards written", len(manifest) / seconds, "files/s")


def measured(arguments, folder):
    """All rows."""
    quick, wanted = arguments.quick, arguments.only
    data_folder = arguments.data_folder
    prepare(data_folder, folder / "save")
    manifest = read_manifest(folder / "save" / "train.csv")
    trees, converted = {"MiniVox": data_folder}, None
    if {"preparation", "kills"} & set(wanted):
        count = 2000 if quick else 100000
        trees["small files"] = small_files(folder / "tree", count)
    if {"writing", "kills"} & set(wanted) and shutil.which("ffmpeg"):
        converted = aac_files(manifest, folder / "m4a", 20 if quick else 200)
    if "preparation" in wanted:
        yield from preparation(trees, arguments.speechbrain_prepare, folder)
    if "writing" in wanted:
        yield from writing(manifest, converted, folder)
    if "loading" in wanted:
        seconds = 1 if quick else 6
        yield from loading(manifest, data_folder, folder, seconds)
    if "kills" in wanted:
        count = 2 if quick else 10
        yield from kills(trees, manifest, converted, folder, count)


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "2,000 small files and two kills")
    options.add_argument("--data_folder", type=pathlib.Path, required=True)
    options.add_argument("--speechbrain_prepare", type=pathlib.Path)
    options.add_argument("--work_folder", help="folder for temporary files")
    options.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments = options.parse_args()
    print_header()
    record = []
    with tempfile.TemporaryDirectory(dir=arguments.work_folder) as folder:
        for made in measured(arguments, pathlib.Path(folder)):
            print_row(made)
            sys.stdout.flush()
            record.append(made)
    finish(record, arguments.json, 0)


if __name__ == "__main__":
    main()
