"""The parts of `gpu.py` that start programs: training, torchrun, studies."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile

import gpu_checks
import gpu_worker
import numpy as np
import resume as killing
import soundfile
import torch
from record import ROOT, state

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.inference.embedding import embed_utterances
from speechbrain_ext.inference.loading import load_encoder
from speechbrain_ext.inference.speaker import SpeakerVerifier
from speechbrain_ext.synthetic.toy_corpus import synthesise_corpus

RECIPE = killing.RECIPE
CORPUS = (6, 3, 2, 3, (0.7, 1.4))  # see synthesise_corpus
OPTIONS = {
    "channels": 4,
    "embedding_size": 16,
    "number_of_epochs": 4,
    "warmup_epochs": 0.5,
    "margin_start_epoch": 2,
    "margin_fix_epoch": 4,
    "final_margin": 0.0,  # so that the loss falls from the first epoch
    "batch_size": 8,
    "lr_scale": 1.0,
    "sentence_len": 0.6,
    "dev_speakers": 2,
    "dev_trials": 40,
    "average_checkpoints": 2,
    "train_dataloader_opts": "{num_workers: 0}",
}
LONGEST = 150  # seconds for the updates of `gpu_worker.py`
# What a machine without a GPU does with weights from a GPU
LOAD = """
import sys, torch
from speechbrain_ext.inference.loading import load_encoder
assert not torch.cuda.is_available()
encoder = load_encoder(sys.argv[1])
print(encoder.encode_batch(0.1 * torch.randn(1, 16000)).shape)
"""
# cuDNN may sum in another order in each run; these runs ask it not to
DETERMINISTIC = """
import runpy, sys, torch
torch.backends.cudnn.deterministic = True
torch.use_deterministic_algorithms(True, warn_only=True)
sys.argv = sys.argv[1:]
sys.path.insert(0, "")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def environment():
    """The environment of a program: this tree before what is installed."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


def start(report, folder, *python, **options):
    """Starts the training script on the toy corpus; said.txt gets its words."""
    corpus = synthesise_corpus(
        report.folder / "corpus", *CORPUS, trials=40, workers=2
    )
    options = OPTIONS | {
        "device": report.device,
        "data_folder": corpus,
        "output_folder": folder,
        **options,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "said.txt", "a") as said:
        return subprocess.Popen(
            [
                sys.executable,
                *python,
                "train_speaker_embeddings.py",
                "hparams/resnet_csphereface2_small.yaml",
                "--noprogressbar",
                *(f"--{key}={value}" for key, value in options.items()),
            ],
            cwd=RECIPE,
            env=environment(),
            stdout=said,
            stderr=said,
        )


def trained(report, precision, name="trained", **options):
    """The folder of a training that has ended, run where there is none."""
    device = options.get("device", report.device)
    commit = state()[0][:12]
    folder = report.folder / f"{name}_{precision}_{device}_{commit}"
    if not (folder / "pretrained" / "hyperparams.yaml").exists():
        run = start(report, folder, precision=precision, **options)
        killing.end(run, folder)
    return folder


def training_losses(folder):
    """The loss of each epoch."""
    lines = (folder / "epochs.jsonl").read_text().splitlines()
    return [json.loads(line)["train loss"] for line in lines]


def training(report):
    """The script in each precision; the losses fall as on the CPU."""
    expected = training_losses(trained(report, "fp32", device="cpu"))
    for precision in ("fp32", "bf16", "fp16"):
        if precision == "fp16" and not report.on_gpu:
            report.skip("fp16 with scaler", "only on a GPU")
            continue
        with report.check(precision):
            folder = trained(report, precision)
            found = training_losses(folder)
            ratio = found[-1] / found[0]
            report.note(f"{precision}: last loss / first", ratio, "x", 1.0)
            apart = abs(found[0] / expected[0] - 1)
            label = f"{precision}: first epoch's loss, fp32 on the CPU"
            report.note(label, 100 * apart, "% apart", 20)
            note_weights(report, precision, folder)
    with report.check("options"):
        more_options(report)


def note_weights(report, name, folder):
    """Adds the number of tensors with a weight that is not finite."""
    weights = killing.weights(folder).values()
    wrong = sum(not one.isfinite().all() for one in weights)
    report.note(f"{name}: weights not finite", wrong, "tensors", 0)


def more_options(report):
    """What the other runs leave out: noise, dither, a filter, a worker."""
    noise = report.folder / "noise"
    for kind in ("noise", "music", "speech"):
        path = noise / kind / "1.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = np.random.default_rng(len(kind)).normal(0, 0.1, 32000)
        soundfile.write(path, sound, 16000)
    spectrum = "!new:speechbrain_ext.augment.spectrum.SpecAugment {}"
    folder = trained(
        report,
        "bf16",
        "options",
        noise_folder=noise,
        dither=1.0,
        spec_augment=spectrum,
        label_noise="{kind: symmetric, rate: 0.4, exact: True}",
        label_filter="{kind: LabelCorrection, warm_up: 1}",
        train_dataloader_opts="{num_workers: 1}",
    )
    note_weights(report, "options", folder)
    with open(folder / "said.txt", "a") as said:
        done = subprocess.run(
            [
                sys.executable,
                "speaker_verification_cosine.py",
                "hparams/verification_resnet_small.yaml",
                "--noprogressbar",
                f"--device={report.device}",
                f"--data_folder={report.folder / 'corpus'}",
                f"--pretrained_folder={folder / 'pretrained'}",
                f"--cohort_manifest={folder / 'save' / 'train.csv'}",
                f"--output_folder={folder / 'verification'}",
                "--calibrate=[]",
                "--top_n=4",  # all speakers: of two, the scores can be equal
            ],
            cwd=RECIPE,
            env=environment(),
            stdout=said,
            stderr=said,
        )
    report.note("verification: exit code", abs(done.returncode), "", 0)


def export(report):
    """Weights trained here, loaded on the CPU and here; one embedding each."""
    folder = trained(report, "fp32") / "pretrained"
    manifest = read_manifest(folder.parent / "save" / "train.csv").head(12)
    found = {}
    for place in dict.fromkeys(("cpu", report.device)):
        with report.check(f"embedding on {place}"):
            encoder = load_encoder(folder, {"device": place})
            found[place] = embed_utterances(encoder, manifest, 6.0)
            alone = embed_utterances(encoder, manifest, 0.1)
            label = f"on {place}: in batches, and one by one"
            report.compare(label, found[place], alone, 1_000)
    with report.check("embeddings, CPU"):
        there = found["cpu"]
        report.compare("embeddings, CPU", found[report.device], there, 2_000)
        gpu_checks.exact()
        encoder = load_encoder(folder, {"device": report.device})
        here = embed_utterances(encoder, manifest, 6.0)
        report.compare("embeddings without TF32, CPU", here, there, 2_000)
    with report.check("loading without a GPU"):
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(folder)],
            cwd=RECIPE,  # imports what PYTHONPATH names
            env=environment() | {"CUDA_VISIBLE_DEVICES": ""},
        )
        code = abs(done.returncode)
        report.note("loading without a GPU: exit code", code, "", 0)
    paths = manifest["wav"].tolist()
    with report.check("enrolment and verification"):
        scores = []
        for place in ("cpu", report.device):
            verifier = SpeakerVerifier.from_folder(folder, {"device": place})
            verifier.enrol("first", paths[0])
            answers = [verifier.verify("first", path) for path in paths[:4]]
            scores.append(torch.tensor([float(one.score) for one in answers]))
        report.compare("scores of SpeakerVerifier", scores[1], scores[0], 2_000)


def resume(report):
    """A run killed by SIGKILL and resumed, beside one left alone."""
    options = {"ckpt_interval_minutes": 0, "ckpt_interval_steps": 3}
    options |= {"precision": "bf16" if report.on_gpu else "fp32"}
    python = ("-c", DETERMINISTIC)
    commit = state()[0][:12]
    alone, killed = (
        report.folder / f"resume_{name}_{commit}"
        for name in ("alone", "killed")
    )
    if not (alone / "pretrained").exists():
        killing.end(start(report, alone, *python, **options), alone)
    if not (killed / "pretrained").exists():
        run = start(report, killed, *python, **options)
        killing.wait(run, killed, 3)
        was_running = run.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGKILL)
        run.wait()
        report.note("killed runs", int(was_running), "runs", 1, at_least=True)
        killing.end(start(report, killed, *python, **options), killed)
    found = killing.differing(alone, killed)
    report.note("differing after the kill", found, "tensors", 0)


def by_torchrun(report, processes):
    """Updates by torchrun, beside one process on the CPU without a split."""
    path = report.folder / f"distributed_{processes}.pt"
    path.unlink(missing_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone"]
    launcher += ["--local_addr=127.0.0.1"]  # its own name may not be known
    launcher += [f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [sys.executable, *launcher, gpu_worker.__file__]
        + [report.device, str(path)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST,
    )
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:])
    for padded, found in enumerate(torch.load(path)):
        losses, state = found
        wanted, expected = gpu_worker.train("cpu", False, bool(padded))
        how = f"{processes} processes{', padded' * padded}"
        report.compare(f"{how}: losses", losses, wanted, 5)
        largest = max(expected, key=lambda key: far(state, expected, key))
        label = f"{how}: parameter farthest off"
        report.compare(label, state[largest], expected[largest], 50)


def far(one, other, key):
    """The relative difference of a parameter."""
    scale = other[key].norm().clamp(min=1e-12)
    return ((one[key] - other[key]).norm() / scale).item()


def distributed(report):
    """One process; on the CPU two as well, by gloo."""
    if not report.on_gpu:
        report.skip("SyncBatchNorm and nccl", "only on a GPU; by gloo here")
    for processes in (1,) if report.on_gpu else (1, 2):
        with report.check(f"{processes} processes"):
            by_torchrun(report, processes)


def distributed_by_two(report):
    """Two processes by nccl, a GPU each."""
    with report.check("2 processes"):
        by_torchrun(report, 2)


def study(report, name):
    """A study of MiniVox; it goes on where it was ended."""
    corpus = pathlib.Path(report.corpus)
    if corpus.is_file():
        folder = report.folder / "corpus_minivox"
        if not (folder / "unpacked").exists():
            with tarfile.open(corpus) as archive:
                archive.extractall(folder, filter="data")
            (folder / "unpacked").touch()
        (first, *_) = folder.glob("**/wav")
        corpus = first.parent
    output = report.folder / f"study_{name}"
    output.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "study.py",
            ROOT / "benchmarks" / "studies" / "gpu" / f"{name}.yaml",
            f"--data_folder={corpus}",
            f"--output_folder={output}",
            f"--work_folder={ROOT.parent / 'gpu_check_trees'}",
            f"--threads={max(1, (os.cpu_count() or 2) // 2)}",
        ],
        env=environment(),
    )
    failed = int(done.returncode != 0)
    report.note("studies that failed", failed, "studies", 0)
    for row in json.loads((output / "records.json").read_text()):
        if "EER" in row["name"] and "interval" not in row["name"]:
            report.note(row["name"], row["value"], row["unit"])


def minivox(report):
    """Three losses in the setting of the small recipes."""
    study(report, "minivox")


def resnet34(report):
    """ResNet34 with 32 channels."""
    study(report, "resnet34")
