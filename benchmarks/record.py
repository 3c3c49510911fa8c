"""What every benchmark prints and writes beside its figures.

A row is written by the program that measured it. It has a name, value and
unit, where something is promised a bound and whether it holds, and where it
comes from: commit and whether the tree was clean, command, seed, date,
machine, versions and minutes.
"""

import argparse
import contextlib
import datetime
import functools
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

from speechbrain_ext.utils.files import explain_disk_full

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "records"
FIGURE = ("name", "value", "unit")
SOURCE = (
    "commit",
    "clean",
    "command",
    "seed",
    "date",
    "machine",
    "versions",
    "minutes",
)
SHARED = ("commit", "clean", "command", "date", "machine", "versions")
STARTED = time.time()


def git(*words, folder=ROOT):
    """What git says of a folder's work tree."""
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(
            f"git {words[0]} failed in {folder}: "
            f"{' '.join(done.stderr.split())}; run it in a git checkout."
        )
    return done.stdout.strip()


def tree_state(folder=ROOT):
    """A work tree's commit, and whether it has no changes but in records."""
    changes = git(
        "status",
        "--porcelain",
        "--",
        ".",
        ":(exclude)benchmarks/records",
        folder=folder,
    )
    return git("rev-parse", "HEAD", folder=folder), not changes


@functools.cache
def state():
    """The state of this tree when it was first asked for.

    For a copy without .git, RECORD_COMMIT in the environment names the commit.
    """
    if known := os.environ.get("RECORD_COMMIT"):
        return known, True
    return tree_state()


def processor():
    """The processor's name and its fastest instructions, in words."""
    import torch  # not before it is needed: it takes seconds

    from speechbrain_ext.utils.devices import has_bf16

    found = getattr(torch.cpu, "get_capabilities", dict)()  # not in 2.7
    name = found.get("cpu_name") or platform.processor() or platform.machine()
    bf16 = {True: "bf16", False: "no bf16", None: "bf16 unknown"}[has_bf16()]
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}, {bf16})"


def machine():
    """Processor, cores and GPU, in words."""
    import torch

    words = f"{processor()}, {os.cpu_count()} cores"
    if torch.cuda.is_available():
        words += f", {torch.cuda.get_device_name()}"
    return words


def versions():
    """Versions of Python and torch."""
    return f"Python {platform.python_version()}, torch {version('torch')}"


def provenance(seed=None, minutes=None, command=None, folder=ROOT):
    """Where figures come from; minutes: those since the program's start."""
    commit, clean = state() if folder == ROOT else tree_state(folder)
    if minutes is None:
        minutes = (time.time() - STARTED) / 60
    if command is None:
        script = pathlib.Path(sys.argv[0]).resolve()
        with contextlib.suppress(ValueError):
            script = script.relative_to(ROOT)
        words = [_without_folders(word) for word in sys.argv[1:]]
        command = shlex.join(["python", str(script), *words])
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "commit": commit,
        "clean": clean,
        "command": command,
        "seed": seed,
        "date": now.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        "minutes": round(minutes, 2),
    }


def _without_folders(word):
    """A word of a command line; of a full path, the last name."""
    option, equals, value = word.rpartition("=")
    if value.startswith("/"):
        value = pathlib.Path(value).name
    return option + equals + value


def parser(doc, quick):
    """A benchmark's options: --quick, held to no bound, and --json FILE."""
    with contextlib.suppress(ValueError):
        state()  # as it is at the start
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument("--json", type=pathlib.Path, metavar="FILE")
    return made


def print_header():
    """Prints the machine, the versions and the commit."""
    commit, clean = state()
    changed = "" if clean else " with changes"
    print(f"{machine()}, {versions()}, commit {commit[:12]}{changed}")


def row(name, value, unit, bound=None, at_least=False, digits=2):
    """A row of a record; a bound is the most, or the least, that is allowed."""
    value = round(value, digits)
    made = {"name": name, "value": value, "unit": unit}
    if bound is not None:
        holds = value >= bound if at_least else value <= bound
        made |= {"bound": bound, "holds": bool(holds)}
    return made


def derived(name, value, unit, ends, rows, about, replicates):
    """A row that follows from those of several runs, with its interval.

    Its setting does not name the runs, so that it can be made anew when there
    are more of them.
    """
    made = row(name, float(value), unit, digits=4)
    made["interval"] = [round(float(end), 4) for end in ends]
    made |= {key: rows[0][key] for key in SHARED}
    made["command"] = "; ".join(one["command"] for one in rows)
    made["minutes"] = round(sum(one["minutes"] for one in rows), 2)
    made["seed"] = sorted({one["seed"] for one in rows})
    made["setting"] = {"replicates": replicates}
    made["derived_by"] = state()[0]
    return made | about


def is_derived(row):
    """Whether a row follows from those of several runs."""
    return "derived_by" in row


def print_row(row):
    """Prints a row, with its bound and whether it holds."""
    bound = f"  bound {row['bound']}" if "bound" in row else ""
    holds = "" if row.get("holds", True) else "  DOES NOT HOLD"
    print(f"{row['name']:50} {row['value']:10.2f} {row['unit']}{bound}{holds}")


def faults(rows):
    """What is wrong with a record's rows, in words."""
    found, names = [], set()
    for number, one in enumerate(rows):
        name = one.get("name", f"row {number}")
        missing = [key for key in (*FIGURE, *SOURCE) if key not in one]
        if missing:
            found.append(f"{name} lacks {', '.join(missing)}")
        if ("bound" in one) != ("holds" in one):
            found.append(f"{name} has only one of bound and holds")
        if name in names:
            found.append(f"{name} comes twice")
        names.add(name)
        if not missing and not (
            isinstance(one["commit"], str)
            and len(one["commit"]) >= 12
            and isinstance(one["clean"], bool)
        ):
            found.append(f"{name} has no commit of 12 digits or no clean")
    return found


def merged(old, new):
    """Rows in the place of those of the same name and setting."""
    settings = {one["name"]: one.get("setting") for one in old}
    for one in new:
        before = settings.get(one["name"], one.get("setting"))
        if before != one.get("setting"):
            raise ValueError(
                f"The row '{one['name']}' was measured in another setting "
                f"({before}); write to another file, or give the row another "
                "name."
            )
    names = {one["name"] for one in new}
    return [one for one in old if one["name"] not in names] + list(new)


def write_bytes(path, content):
    """Writes a file whole: it is the old one until it is the new one."""
    path = pathlib.Path(path)
    with explain_disk_full(path.parent):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".record-")
        try:
            with open(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def write_text(path, text):
    """Writes a text whole."""
    write_bytes(path, text.encode())


def text_of(rows):
    """JSON with a row a line."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def write(rows, path):
    """Writes a record, whole."""
    wrong = faults(rows)
    if wrong:
        raise ValueError(f"{path} is not written: {wrong[0]}.")
    write_text(path, text_of(rows))


def finish(record, path, seed=None):
    """Writes the record where it is asked; exit code 1 if a bound fails.

    Rows that the file has of other names stay. Those of a --quick run are of
    another setting, and replace no others.
    """
    if path:
        source = provenance(seed)
        if "--quick" in sys.argv:
            source["setting"] = "quick"
        old = json.loads(path.read_text()) if path.exists() else []
        rows = merged(old, [one | source for one in record])
        write([one for one in rows if SOURCE[0] in one], path)
    sys.exit(not all(row.get("holds", True) for row in record))
