"""The parts of `gpu.py`: what each needs, and how it reports its rows."""

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import time
import traceback

import record
import torch

PPM = "ppm of the norm"


@dataclasses.dataclass
class Part:
    """A part: the function that runs it, and what it is about.

    Arguments
    ---------
    function : str
        ``module.function``; it gets a ``Report``.
    about : str
        What it checks or measures.
    gpus : int
        GPUs without which it cannot run; 0 if it also runs on the CPU.
    corpus : bool
        Whether it needs MiniVox.
    """

    function: str
    about: str
    gpus: int = 0
    corpus: bool = False


PARTS = {
    "losses": Part("gpu_checks.losses", "every loss in fp32, bf16 and fp16"),
    "frontend": Part(
        "gpu_checks.frontend", "features, augmentation and dither"
    ),
    "encoders": Part(
        "gpu_checks.encoders", "networks, three precisions, channels_last"
    ),
    "scoring": Part(
        "gpu_checks.scoring", "scorings, score normalization, calibration"
    ),
    "compile": Part("gpu_checks.compiled", "compiled loss and encoder"),
    "memory": Part(
        "gpu_checks.memory", "too little memory for a batch", gpus=1
    ),
    "distributed": Part(
        "gpu_training.distributed", "DDP, SyncBatchNorm, sharded head: one"
    ),
    "distributed2": Part(
        "gpu_training.distributed_by_two", "the same by two GPUs", gpus=2
    ),
    "training": Part(
        "gpu_training.training", "the script in fp32, bf16, fp16 with scaler"
    ),
    "export": Part(
        "gpu_training.export", "export, loading, embedding, verification"
    ),
    "resume": Part("gpu_training.resume", "killed, resumed, bit-equal"),
    "throughput": Part("gpu_throughput.table", "utterances per second"),
    "minivox": Part(
        "gpu_training.minivox", "losses on MiniVox", gpus=1, corpus=True
    ),
    "resnet34": Part(
        "gpu_training.resnet34", "32 channels on MiniVox", gpus=1, corpus=True
    ),
}


def device():
    """``cuda`` if there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_part(name):
    """Raises if there is no such part."""
    if name not in PARTS:
        raise ValueError(
            f"`--part` must be one of {', '.join(PARTS)}, got {name!r}."
        )


def cannot_run(name, where, corpus=None):
    """Why a part cannot run here, empty if it can."""
    part = PARTS[name]
    found = torch.cuda.device_count() if where == "cuda" else 0
    if found < part.gpus:
        return f"it needs {part.gpus} GPUs, PyTorch finds {found}"
    if part.corpus and not corpus:
        return "it needs --minivox"
    return ""


class Report:
    """The rows of a part.

    Arguments
    ---------
    name : str
        The part.
    where : str
        ``cpu`` or ``cuda``.
    folder : pathlib.Path
        Folder for files that later parts and calls use again.
    corpus : pathlib.Path
        MiniVox, or None.
    path : pathlib.Path
        The file to which each row is written at once, or None.
    """

    def __init__(self, name, where, folder, corpus=None, path=None):
        self.name, self.device, self.folder = name, where, folder
        self.corpus, self.rows, self.path = corpus, [], path

    @property
    def on_gpu(self):
        """Whether the part runs on a GPU."""
        return self.device == "cuda"

    def note(self, name, *figure, **options):
        """Adds a row, see ``record.row``, and prints it."""
        made = record.row(f"{self.name}, {self.device}: {name}", *figure)
        if options or len(figure) > 2:
            made = record.row(made["name"], *figure, **options)
        self.rows.append(made)
        record.print_row(made)
        if self.path is not None:  # the part may be ended before it ends
            temporary = self.path.with_suffix(".new")
            temporary.write_text(json.dumps(self.rows))
            temporary.replace(self.path)

    def compare(self, name, got, wanted, bound):
        """Adds the relative difference of two tensors, in norm."""
        got = got.detach().double().cpu()
        wanted = wanted.detach().double().cpu()
        if got.shape != wanted.shape:
            raise ValueError(f"{list(got.shape)} is not {list(wanted.shape)}.")
        scale = wanted.norm().clamp(min=1e-12)
        share = ((got - wanted).norm() / scale).nan_to_num(nan=1.0).item()
        self.note(name, 1e6 * share, PPM, bound)

    def skip(self, name, why):
        """Says what is left out, and why."""
        print(f"SKIPPED: {self.name}, {self.device}: {name}: {why}", flush=True)

    @contextlib.contextmanager
    def check(self, name):
        """An error inside becomes a row, and the part goes on."""
        try:
            yield
        except Exception:
            traceback.print_exc()
            self.note(f"{name}: errors", 1, "errors", 0)


def run(name, path, arguments):
    """Runs a part in this process and writes its rows; exit code 0."""
    check_part(name)
    where = os.environ.get("GPU_CHECK_DEVICE", device())
    folder = arguments.work_folder / where
    folder.mkdir(parents=True, exist_ok=True)
    path = pathlib.Path(path)
    report = Report(name, where, folder, arguments.minivox, path)
    module, function = PARTS[name].function.split(".")
    started = time.monotonic()
    with report.check("the part"):
        getattr(importlib.import_module(module), function)(report)
    report.note("finished", time.monotonic() - started, "s")
    return 0
