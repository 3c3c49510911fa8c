"""Kills runs of the recipe, or fills their disk, and runs them again.

    python tests/helpers/kill_points.py CORPUS FOLDER \
        --points 10 --full 5 --verify

One process imports all modules and forks each run. A killed run gets SIGKILL
instead of a call that changes the disk. These calls are spread evenly over
training, export and verification. A run on a full disk gets ENOSPC there, or
writes to a disk (a tmpfs) that is too small. When each is run again, it must
end with the weights and scores of an undisturbed run, and leave no temporary
files. The script prints a line of JSON for each run.
"""

import argparse
import contextlib
import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

# import once what every forked run needs
import matplotlib.pyplot  # noqa: F401
import torch
import torch._dynamo
from recipe_runs import TINY

import speechbrain_ext.lobes.models.ResNet
import speechbrain_ext.nnet.losses  # noqa: F401
from speechbrain_ext.utils import experiment
from speechbrain_ext.utils.temporaries import TEMPORARY

RECIPE = pathlib.Path(__file__).parents[2] / "recipes/VoxCeleb/SpeakerRec"
sys.path.insert(0, str(RECIPE))

import speaker_verification_cosine  # noqa: E402
import train_speaker_embeddings  # noqa: E402

# Functions of os with which a run changes the disk
CALLS = ("replace", "rename", "fsync", "unlink", "link", "symlink", "mkdir")
TAKES_SPACE = ("replace", "rename", "fsync", "link", "symlink", "mkdir")
PHASES = ("training", "export", "verification")
WEIGHTS = ("embedding_model", "classifier", "loss", "label_encoder")


class Events:
    """Counts the calls of each phase, and calls a function at one of them.

    Arguments
    ---------
    at : tuple
        Phase and number of the call.
    act : callable
        Function to call there.
    """

    def __init__(self, at=(None, None), act=None):
        self.at, self.act, self.phase = at, act, "training"
        self.counts = dict.fromkeys(PHASES, 0)
        for name in CALLS:
            setattr(os, name, self.counted(getattr(os, name), name))
        scripts = train_speaker_embeddings, speaker_verification_cosine
        self.enter(scripts[0], "export_pretrained", "export")
        self.enter(scripts[1], "load_recipe", "verification")

    def counted(self, call, name):
        """Wraps a function to count its calls."""

        def counting(*arguments, **options):
            number = self.counts[self.phase]
            self.counts[self.phase] += 1
            phase, at = self.at
            if phase == self.phase and number >= at:
                if self.act is kill or name in TAKES_SPACE:
                    self.act()
            return call(*arguments, **options)

        return counting

    def enter(self, module, name, phase):
        """Starts a phase when a function of a script is called."""
        function = getattr(module, name)

        def entering(*arguments, **options):
            self.phase = phase
            return function(*arguments, **options)

        setattr(module, name, entering)


def kill():
    """Kills this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill():
    """Raises the error of a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def forked(work, folder, at=(None, None), act=None):
    """Runs a function in a fork; returns exit code, output and counts."""
    said, counts = folder / "said.txt", folder / "counts.json"
    child = os.fork()
    if not child:
        with open(said, "w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        code = 70
        try:
            torch.set_num_threads(1)
            # saves the time to list all packages
            experiment.describe_environment = lambda: "a machine"
            events = Events(at, act)
            work()
            code = 0
            counts.write_text(json.dumps(events.counts))
        except SystemExit as end:
            if isinstance(end.code, str):
                os.write(2, f"{end.code}\n".encode())
            code = 1 if isinstance(end.code, str) else end.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = json.loads(counts.read_text()) if counts.exists() else {}
    return code, said.read_text(errors="replace"), found


def training(corpus, folder):
    """A function that trains the tiny network."""
    options = TINY | {"data_folder": corpus, "output_folder": folder / "out"}
    options |= {"ckpt_interval_minutes": 0, "ckpt_interval_steps": 2}
    return lambda: train_speaker_embeddings.main(
        [
            str(RECIPE / "hparams" / "resnet_csphereface2_small.yaml"),
            "--device=cpu",
            "--noprogressbar",
            *(f"--{key}={value}" for key, value in options.items()),
        ]
    )


def verification(corpus, folder):
    """A function that verifies with the network."""
    options = {
        "data_folder": corpus,
        "pretrained_folder": folder / "out" / "pretrained",
        "output_folder": folder / "verified",
        "num_workers": 0,
        "bootstrap": 0,
        "scorings": "[cosine, asnorm]",
        "calibrate": "[cosine]",
    }
    return lambda: speaker_verification_cosine.main(
        [
            str(RECIPE / "hparams" / "verification_resnet_small.yaml"),
            "--device=cpu",
            "--noprogressbar",
            *(f"--{key}={value}" for key, value in options.items()),
        ]
    )


def outcome(folder):
    """Weights and scores of a run, and temporary files that are left."""
    held = {}
    for path in sorted((folder / "out" / "pretrained").glob("*.ckpt")):
        if path.name == "label_encoder.ckpt":
            held[path.name] = path.read_text()
            continue
        for key, value in torch.load(path, weights_only=True).items():
            held[f"{path.name} {key}"] = value.tolist()
    for path in sorted((folder / "verified").glob("scores_*")):
        held[path.name] = path.read_text()
    left = [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if TEMPORARY.match(path.name)
        or path.name.startswith((".CKPT", ".speechbrain_ext-new"))
        or path.name.endswith((".tmp", ".broken"))
    ]
    return held, left


def one_run(corpus, alone, folder, at, act, verify):
    """A run that is stopped in one place, and run again."""
    phase, number = at
    if phase != "training":  # a run that is about to export, or to verify
        shutil.copytree(alone, folder, symlinks=True)
        shutil.rmtree(folder / "verified")
        if phase == "export":
            shutil.rmtree(folder / "out" / "pretrained")
    else:
        folder.mkdir()
    work = training if phase != "verification" else verification
    code, said, _ = forked(work(corpus, folder), folder, at, act)
    stopped = {"code": code, "said": said[-3000:]}
    works = [training] * (phase != "verification")
    works += [verification] * (verify or phase == "verification")
    again = run_again(corpus, alone, folder, works)
    about = {"phase": phase, "call": number, "act": act.__name__}
    return {**about, "stopped": stopped, **again}


def run_again(corpus, alone, folder, works):
    """Runs stopped functions again and compares their results."""
    again = 0
    for work in works:
        code, said, _ = forked(work(corpus, folder), folder)
        again = again or code
    wanted, (found, left) = outcome(alone)[0], outcome(folder)
    if verification not in works:
        wanted = {k: v for k, v in wanted.items() if k.startswith(WEIGHTS)}
        found = {k: v for k, v in found.items() if k.startswith(WEIGHTS)}
    differing = [k for k in wanted | found if wanted.get(k) != found.get(k)]
    return {
        "again": again,
        "said": said[-2000:],
        "compared": len(wanted),
        "differing": differing,
        "left": left,
    }


def on_a_small_disk(corpus, alone, folder, size):
    """Trains on a disk that is too small, then again on a larger one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]
    subprocess.run(mount, check=True)
    try:
        words = folder.parent
        code, said, _ = forked(training(corpus, folder), words)
        stopped = {"code": code, "said": said[-3000:]}
        more = ["mount", "-o", "remount,size=1g", folder]
        subprocess.run(more, check=True)
        again = run_again(corpus, alone, folder, [training, verification])
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
    about = {"phase": "training", "call": size, "act": "tmpfs"}
    return {**about, "stopped": stopped, **again}


def main(argv=None):
    """Prints a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--full", type=int, default=5)
    parser.add_argument("--tmpfs", type=int, default=0, help="needs root")
    parser.add_argument("--verify", action="store_true", help="each run")
    options = parser.parse_args(argv)
    alone = options.folder / "alone"
    alone.mkdir()
    counts = dict.fromkeys(PHASES, 0)
    for work in (training, verification):
        code, said, found = forked(work(options.corpus, alone), alone)
        if code:
            sys.exit(said)
        counts = {name: counts[name] + found[name] for name in PHASES}
    runs = [
        ((phase, int((n + 0.5) * counts[phase] / options.points)), kill)
        for phase in PHASES
        for n in range(options.points)
    ]
    for n in range(options.full):
        phase = PHASES[n % len(PHASES)]
        place = int((n + 1) * counts[phase] / (options.full + 1))
        runs.append(((phase, place), fill))
    for number, (at, act) in enumerate(runs):
        folder = options.folder / f"{number}"
        started = time.perf_counter()
        found = one_run(options.corpus, alone, folder, at, act, options.verify)
        found["seconds"] = time.perf_counter() - started
        print(json.dumps(found), flush=True)
        shutil.rmtree(folder)
    files = (alone / "out").rglob("*")
    size = sum(path.stat().st_size for path in files if path.is_file())
    for number in range(options.tmpfs):
        share = (number + 0.5) / options.tmpfs
        found = on_a_small_disk(
            options.corpus, alone, options.folder / "disk", int(share * size)
        )
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
