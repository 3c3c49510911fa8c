"""The commands of one run of a study, in a process of its own.

`study.py` starts it. A command that has ended well is not run again, and one
that was killed resumes by itself. The run's folder gets `log.txt` and
`phases.json`.
"""

import argparse
import collections
import errno
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

from speechbrain_ext.utils.files import atomic_write, locked_folder

FULL, KILLED = errno.ENOSPC, 128 + signal.SIGKILL  # exit codes
FULL_WORDS = "No space left"
SHOWN = 15  # last lines of the log that say why a run failed


def die_with(parent):
    """Lets this process end when its parent does (Linux)."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)  # it has ended already


def write_json(path, value):
    """Writes a file of the run, whole."""
    with atomic_write(path) as stream:
        json.dump(value, stream, indent=1)


class Phases:
    """When each command began and ended, over all attempts.

    Arguments
    ---------
    folder : pathlib.Path
        The run's.
    """

    def __init__(self, folder):
        self.path, log = folder / "phases.json", folder / "log.txt"
        self.held = []
        if self.path.exists():
            self.held = json.loads(self.path.read_text())
        for attempt in self.held:
            if attempt["ended"] is None:  # killed: the log's last word
                ended = log.stat().st_mtime if log.exists() else 0
                attempt["ended"] = max(ended, attempt["started"])

    def is_done(self, name):
        """Whether a command has ended well."""
        return any(a["phase"] == name and a["done"] for a in self.held)

    def begin(self, name):
        """Notes that a command begins."""
        began = {"phase": name, "started": time.time(), "ended": None}
        self.held.append({**began, "done": False})
        write_json(self.path, self.held)

    def end(self, done):
        """Notes that a command has ended."""
        self.held[-1] |= {"ended": time.time(), "done": done}
        write_json(self.path, self.held)

    def minutes(self, name=None):
        """Minutes of one command, or all, over all attempts."""
        chosen = [a for a in self.held if name in (None, a["phase"])]
        return sum(a["ended"] - a["started"] for a in chosen) / 60


def execute(cwd, words, log):
    """Runs a Python script; returns its exit code and its last lines."""
    command = [sys.executable, *words]
    tail, parent = collections.deque(maxlen=SHOWN), os.getpid()
    log.write(f"\n$ cd {cwd}; {shlex.join(command)}\n")
    log.flush()
    with subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=lambda: die_with(parent),  # noqa: PLW1509
    ) as process:
        try:
            for line in process.stdout:
                if line.strip():
                    tail.append(line.rstrip())
                log.write(line)
                log.flush()
        except BaseException:
            process.kill()
            raise
    return process.returncode, list(tail)


def run(commands, folder):
    """Runs the commands that have not ended well; why one failed, or None."""
    phases = Phases(folder)
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        for phase, (cwd, words) in commands.items():
            if phases.is_done(phase):
                continue
            phases.begin(phase)
            code, said = execute(cwd, words, log)
            if code < 0:
                sys.exit(KILLED)
            full = [line for line in said if FULL_WORDS in line]
            if code and full:
                raise OSError(full[-1].removeprefix("error: "))
            phases.end(code == 0)
            if code:
                said = "\n".join(said)
                return f"{words[0]} ended with code {code}:\n{said}"
    return None


def main():
    """Runs the commands of the command line; says why one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("commands", help="JSON: folder and words by phase")
    arguments = parser.parse_args()
    try:
        with locked_folder(arguments.folder):
            reason = run(json.loads(arguments.commands), arguments.folder)
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(FULL if FULL_WORDS in str(error) else 1)
    sys.exit(reason)


if __name__ == "__main__":
    main()
