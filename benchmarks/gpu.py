#!/usr/bin/env python3
"""Every way of this project on a GPU, once, beside its result on the CPU.

    python benchmarks/gpu.py [--list] [--part NAME ...] [--again]
        [--minutes 60] [--wheels FOLDER] [--commit HASH]
        [--minivox TAR or FOLDER] [--work_folder FOLDER] [--json FILE]

The parts run one after another, each in a process of its own and at most
eight minutes long. When a part ends, its rows are written to the record; it is
not repeated while the record has it of the same commit. So the same command
goes on after a kill, or when `--minutes` are over. Without a GPU, the parts of
the GPU are skipped by name, and what can run on the CPU runs there, small.

A machine without speechbrain, hyperpyyaml or soundfile, and without a network,
gets them from a folder of wheels: run `make wheels` elsewhere, copy
build/wheels, and pass it as `--wheels`. A copy of the tree without .git is
given its commit by the repository.git in that folder, or by `--commit`.
"""

import argparse
import contextlib
import email
import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

# Nothing else is imported here: the packages may not be installed yet
ROOT = pathlib.Path(__file__).resolve().parents[1]
PART_MINUTES = 8
REPOSITORY = "repository.git"  # in the folder of wheels
READY = "GPU_CHECK_READY"  # set once the packages and the checkout are there
NEEDED = ("torch", "torchaudio", "numpy", "scipy", "pandas", "matplotlib")


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, path = parser.add_argument, pathlib.Path
    add("--list", action="store_true", help="the parts, and what is done")
    add("--part", action="append", metavar="NAME", help="only this part")
    add("--again", action="store_true", help="repeats what is done")
    add("--minutes", type=float, default=60.0, help="of the whole call")
    add("--wheels", type=path, help="folder that `make wheels` wrote")
    add("--commit", help="of a copy without .git")
    add("--minivox", type=path, help="the corpus, a folder or a tar")
    add("--work_folder", type=path, help="default: results/gpu_check")
    add("--json", type=path, help="the record")
    add("--run", nargs=2, help=argparse.SUPPRESS)  # a part, in its process
    return parser


def wheel_name(wheel):
    """The name of a wheel's package, from its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (
            name
            for name in archive.namelist()
            if name.endswith(".dist-info/METADATA") and name.count("/") == 1
        )
        return email.message_from_bytes(archive.read(path))["Name"]


def installed(name):
    """Whether a package is installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(name))
    return False


def install(wheels, target):
    """Installs the wheels of packages that are missing; no network."""
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise ValueError(
            f"`--wheels` must be a folder with wheels, got {wheels}; run "
            "`make wheels` where there is a network and copy build/wheels."
        )
    missing = [wheel for wheel in found if not installed(wheel_name(wheel))]
    if missing:
        words = ["--no-index", "--no-deps", "--no-compile", "--upgrade"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", *words]
            + ["--target", str(target), *map(str, missing)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip() or "no output").splitlines()[-1]
            raise OSError(f"pip cannot install the wheels of {wheels}: {last}")
    print(f"{len(missing)} of {len(found)} wheels were missing", flush=True)


def checkout(wheels):
    """The root of a git checkout of this tree, made if there is none."""
    if (ROOT / ".git").exists():
        return ROOT
    source = wheels and wheels / REPOSITORY
    if not source or not source.is_dir():
        return ROOT
    made = ROOT
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git
        (source / "refs").mkdir(exist_ok=True)  # it may travel without it
        command = ["git", "-C", str(source), "rev-parse", "HEAD"]
        commit = subprocess.check_output(command, text=True).strip()
        made = ROOT / "build" / f"gpu_checkout_{commit[:12]}"
        if not made.exists():
            command = ["git", "clone", "--quiet", str(source), str(made)]
            subprocess.run(command, check=True)
    return made if (made / "benchmarks/gpu.py").exists() else ROOT


def get_ready(arguments):
    """Starts this program again where its packages and its commit are."""
    environment = os.environ | {READY: "yes"}
    wheels, root = arguments.wheels, ROOT
    paths = []
    if wheels:
        wheels = wheels.resolve()
        root = checkout(wheels)
        target = ROOT / "build" / "gpu_packages"
        install(wheels, target)
        paths.append(str(target))
    if arguments.commit:
        if (root / ".git").exists():
            raise ValueError(
                f"`--commit` is for a copy without .git, but {root} is a git "
                "checkout; leave out `--commit`."
            )
        environment["RECORD_COMMIT"] = arguments.commit
    elif not (root / ".git").exists() and "RECORD_COMMIT" not in environment:
        raise ValueError(
            "This copy of the tree has no .git, so its commit is unknown; "
            "pass --commit=HASH."
        )
    paths = [str(root), *paths, os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    words = [str(root / "benchmarks/gpu.py"), *sys.argv[1:]]
    if arguments.work_folder is None:
        words.append(f"--work_folder={ROOT / 'results/gpu_check'}")
    ended = subprocess.run([sys.executable, *words], env=environment)
    sys.exit(ended.returncode)


def require_packages():
    """Raises where a package is still missing."""
    names = (*NEEDED, "speechbrain", "hyperpyyaml", "soundfile")
    if missing := [name for name in names if not installed(name)]:
        raise ValueError(
            f"This machine has no {', '.join(missing)}; pass a folder of "
            "`make wheels` as --wheels. With MORE='scipy pandas', `make "
            "wheels` downloads these too."
        )


def is_done(rows, name, device, state):
    """Whether a record has a finished part of this state of the tree."""
    wanted = f"{name}, {device}: finished"
    return any(
        row["name"] == wanted and (row["commit"], row["clean"]) == state
        for row in rows
    )


def all_hold(name, device, rows):
    """Whether all bounds of a part hold."""
    own = f"{name}, {device}: "
    return all(
        row.get("holds", True) for row in rows if row["name"].startswith(own)
    )


def read_record(path):
    """The rows of a record; an empty list without a file."""
    return json.loads(path.read_text()) if path.exists() else []


def run_part(name, device, arguments, seconds):
    """Runs a part in a process of its own; the rows that it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "rows.json")
        words = [f"--work_folder={arguments.work_folder}"]
        words += [f"--minivox={arguments.minivox}"] * bool(arguments.minivox)
        process = subprocess.Popen(
            [sys.executable, __file__, *words, "--run", name, str(path)],
            env=os.environ | {"GPU_CHECK_DEVICE": device},
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            print(f"{name} was ended after {seconds / 60:.1f} minutes.")
        finally:  # with all that it started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return read_record(path)


def write_rows(name, device, rows, minutes, path, record):
    """Puts the rows of a part in the place of those that it had."""
    old = [
        row
        for row in read_record(path)
        if not row["name"].startswith(f"{name}, {device}: ")
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    source = record.provenance(0, minutes)
    record.write(old + [row | source for row in rows], path)


def run_all(arguments, parts, device, record):
    """Runs the parts that are not done; the names of those that failed."""
    path, state = arguments.json, record.state()
    ends, failed, left = time.monotonic() + 60 * arguments.minutes, [], []
    for name in arguments.part or list(parts.PARTS):
        why = parts.cannot_run(name, device, arguments.minivox)
        if device == "cpu":
            print(f"SKIPPED: {name} on a GPU: PyTorch finds no GPU")
        if why:
            if device != "cpu":
                print(f"SKIPPED: {name}: {why}")
            continue
        rows = read_record(path)
        if is_done(rows, name, device, state) and not arguments.again:
            print(f"{name}, {device}: done before", flush=True)
            if not all_hold(name, device, rows):
                failed.append(name)
            continue
        seconds = min(60 * PART_MINUTES, ends - time.monotonic())
        if seconds <= 0:
            left.append(name)
            continue
        print(f"{name}, {device}", flush=True)
        begun = time.monotonic()
        rows = run_part(name, device, arguments, seconds)
        minutes = (time.monotonic() - begun) / 60
        if rows:
            write_rows(name, device, rows, minutes, path, record)
        if not rows or rows[-1]["name"] != f"{name}, {device}: finished":
            (left if time.monotonic() >= ends else failed).append(name)
        elif not all_hold(name, device, rows):
            failed.append(name)
    if left:
        print(f"Left: {', '.join(left)}. The same command goes on.")
    return failed


def main(argv=None):
    """Runs the parts of the command line."""
    arguments = make_parser().parse_args(argv)
    try:
        if READY not in os.environ:
            get_ready(arguments)
        require_packages()
        import gpu_parts
        import record
        import study_run

        if arguments.run:
            study_run.die_with(os.getppid())
            return gpu_parts.run(*arguments.run, arguments)
        device = gpu_parts.device()
        for name in arguments.part or ():
            gpu_parts.check_part(name)
        folder = arguments.work_folder = arguments.work_folder.resolve()
        if arguments.json is None:
            arguments.json = folder / f"{device}.json"
        if arguments.list:
            rows = read_record(arguments.json)
            for name, part in gpu_parts.PARTS.items():
                done = is_done(rows, name, device, record.state())
                print(f"{name:12} {'done' if done else '    '} {part.about}")
            return 0
        record.print_header()
        failed = run_all(arguments, gpu_parts, device, record)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on.")
    if failed:
        print(f"Not as it must be: {', '.join(failed)}")
    print(f"The record is {arguments.json}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
