#!/usr/bin/env python3
"""Runs a study: recipe x loss x options x seed, each run once, resumably.

    python benchmarks/study.py benchmarks/studies/minivox.yaml \
        --data_folder=MINIVOX --output_folder=results/minivox_study \
        --work_folder=../trees [--wespeaker=CHECKOUT] [--jobs 2] \
        [--threads 1] [--nice 19] [--json FILE] [--keep FOLDER] [--retry] \
        [--collect]

The form of a study is in `study_file.py`. All is checked before the first
run. Each run is a process that trains and verifies by the recipe's own
scripts, in a git work tree of the study's commit. The commit is HEAD when the
study is first started, or --commit. The same command goes on after a kill: a
run that has a record is never repeated, one that was killed resumes at its
checkpoint, and one that died is marked failed with its reason until --retry.

In the output folder: queue.json (the state of each run), runs/NAME/ with
log.txt and record.json or failed.json, records.json with the rows of all runs
and of the paired differences, and the summary. --json FILE gets the same
rows. --keep FOLDER gets a small file of each run, with which the study can
continue on another machine (`study_keep.py`). --collect records the runs that
have ended so far, and starts none. --summary makes the summary anew from the
rows alone, and runs nothing.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import record
import study_differences
import study_file
import study_keep
import study_rows
import study_run
import study_summary
import study_tree

from speechbrain_ext.utils.files import (
    atomic_write,
    lock_output_folder,
    locked_folder,
)

POLL = 0.2  # seconds
KILLS = 3  # a run that is killed so often is marked failed
SIGNS = {"done": "done", "failed": "FAILED"}


class Runner:
    """The runs of a study, in its output folder.

    Arguments
    ---------
    runs : dict
        Settings by name, in their order.
    arguments : argparse.Namespace
        The command line, paths absolute.
    tree : pathlib.Path
        The work tree.
    """

    def __init__(self, runs, arguments, tree):
        self.runs, self.arguments, self.tree = runs, arguments, tree
        self.folder = arguments.output_folder
        self.running, self.kills = {}, dict.fromkeys(runs, 0)

    def path(self, name, file):
        """A file of a run."""
        return self.folder / "runs" / name / file

    def state(self, name):
        """What has become of a run, read off its folder."""
        if self.path(name, "record.json").exists():
            return "done"
        if self.path(name, "failed.json").exists():
            return "failed"
        return "running" if name in self.running else "waiting"

    def check_folders(self):
        """Raises where a run's folder is of another setting."""
        for name, run in self.runs.items():
            for file in ("record.json", "failed.json", "setting.json"):
                path = self.path(name, file)
                if not path.exists():
                    continue
                held = json.loads(path.read_text())
                held = held[0] if isinstance(held, list) else held
                if held["setting"] != run:
                    raise ValueError(
                        f"{path.parent} is of another setting: "
                        f"{held['setting']}; give the system another name, or "
                        "name another --output_folder."
                    )

    def check_json(self):
        """Raises where --json could not get the rows."""
        path = self.arguments.json
        if not path:
            return
        if not path.absolute().parent.is_dir():
            raise ValueError(
                f"`--json` {path} cannot be written: its folder does not "
                "exist; make it."
            )
        held = json.loads(path.read_text()) if path.exists() else []
        wrong = record.faults(held)
        if wrong:
            raise ValueError(f"`--json` {path}: {wrong[0]}; name another file.")
        settings = [row.get("setting") for row in held]
        for setting in filter(lambda one: isinstance(one, dict), settings):
            name = f"{setting.get('system')}_{setting.get('seed')}"
            if self.runs.get(name, setting) != setting:
                raise ValueError(
                    f"`--json` {path} has rows of {name} in another setting; "
                    "name another file."
                )

    def write_queue(self):
        """The state of all runs, for people."""
        queue = []
        for name in self.runs:
            queue.append({"run": name, "state": self.state(name)})
            if queue[-1]["state"] == "failed":
                held = json.loads(self.path(name, "failed.json").read_text())
                queue[-1]["reason"] = held["reason"]
            base = self.runs[name].get("start_from")
            if base and self.state(base) != "done":
                queue[-1]["waits for"] = base
        with atomic_write(self.folder / "queue.json") as stream:
            json.dump(queue, stream, indent=1)

    def forget_failures(self):
        """Puts what failed back into the queue."""
        for name in self.runs:
            self.path(name, "failed.json").unlink(missing_ok=True)

    def next(self):
        """The first run that can begin, or None."""
        for name, run in self.runs.items():
            base = run.get("start_from")
            if self.state(name) == "waiting" and (
                base is None or self.state(base) == "done"
            ):
                return name
        return None

    def commands(self, name):
        """The commands of a run by phase, with their folders."""
        made = study_file.commands(
            self.runs[name],
            self.path(name, ""),
            self.tree,
            self.arguments.data_folder,
            self.arguments.wespeaker,
        )
        return {
            phase: (str(cwd), words) for phase, (cwd, words) in made.items()
        }

    def start(self, name):
        """Begins a run in a process of its own."""
        folder = self.path(name, "")
        with locked_folder(folder):
            if not (folder / "setting.json").exists():
                setting = {"setting": self.runs[name]}
                study_run.write_json(folder / "setting.json", setting)
        parent = os.getpid()

        def prepare():
            study_run.die_with(parent)
            os.nice(self.arguments.nice)

        self.running[name] = subprocess.Popen(
            [
                sys.executable,
                study_run.__file__,
                str(folder),
                json.dumps(self.commands(name)),
            ],
            env=study_tree.environment(self.tree, self.arguments.threads),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=prepare,  # noqa: PLW1509
        )
        say(f"{name} begins")

    def end(self, name):
        """Looks at a run that has ended, and records it."""
        process = self.running.pop(name)
        with process.stderr:
            said = process.stderr.read().strip()
        code = process.returncode
        if code == study_run.FULL:
            raise OSError(said.splitlines()[-1])
        if code == 0:
            try:
                self.record(name)
            except (ValueError, KeyError, FileNotFoundError) as error:
                code, said = 1, f"The results could not be read: {error}"
        elif code < 0 or code == study_run.KILLED:
            self.kills[name] += 1
            said = f"It was killed {KILLS} times."
            code = int(self.kills[name] == KILLS)
        if code:
            failed = {"reason": said, "setting": self.runs[name]}
            study_run.write_json(self.path(name, "failed.json"), failed)
        state = self.state(name)
        say(f"{name} {SIGNS.get(state, 'was killed; it goes on')}")

    def record(self, name):
        """Writes the record of a run whose commands have all ended well."""
        arguments, folder = self.arguments, self.path(name, "")
        paths = {
            folder.parent: "RUNS",
            arguments.data_folder: "DATA",
        }
        if arguments.wespeaker is not None:
            paths[arguments.wespeaker] = "WESPEAKER"
        rows = study_rows.record_of(
            self.runs[name],
            self.commands(name),
            folder,
            self.tree,
            study_run.Phases(folder),
            paths,
        )
        with atomic_write(folder / "record.json") as stream:
            stream.write(record.text_of(rows))
        if arguments.keep:
            study_keep.keep(name, rows, self.folder, arguments.keep)

    def take_over(self):
        """Takes over what is kept, and keeps what has ended before."""
        arguments = self.arguments
        if not arguments.keep:
            return
        commit, _ = record.tree_state(self.tree)
        taken = study_keep.restore(
            self.runs, commit, self.folder, arguments.keep
        )
        if taken:
            say(f"taken over from {arguments.keep}: {', '.join(taken)}")
        for name in self.runs:
            path = self.path(name, "record.json")
            if path.exists():
                rows = json.loads(path.read_text())
                study_keep.keep(name, rows, self.folder, arguments.keep)

    def run_all(self):
        """Does what is to be done; returns when nothing more can be."""
        try:
            while True:
                ended = [
                    n for n, p in self.running.items() if p.poll() is not None
                ]
                for name in ended:
                    self.end(name)
                    self.collect()
                began = False
                while len(self.running) < self.arguments.jobs:
                    name = self.next()
                    if name is None:
                        break
                    self.start(name)
                    began = True
                if ended or began:
                    self.write_queue()
                if not self.running:
                    return
                time.sleep(POLL)
        finally:
            for process in self.running.values():
                process.kill()
                process.wait()

    def rows(self):
        """The rows of all runs that have ended."""
        files = [self.path(name, "record.json") for name in self.runs]
        rows = []
        for file in filter(pathlib.Path.exists, files):
            rows += json.loads(file.read_text())
        return rows

    def collect(self, differences=()):
        """Writes the rows of all runs into one file, and into --json."""
        rows = [*self.rows(), *differences]
        with atomic_write(self.folder / "records.json") as stream:
            stream.write(record.text_of(rows))
        path = self.arguments.json
        if path:
            held = json.loads(path.read_text()) if path.exists() else []
            # they may not follow from the rows any more
            held = [row for row in held if not record.is_derived(row)]
            record.write(record.merged(held, rows), path)


def commit_of(arguments):
    """The commit of the study: that of its folder, or the one asked for."""
    path = arguments.output_folder / "study.json"
    asked = arguments.commit
    if asked is not None or not path.exists():
        asked = record.git("rev-parse", f"{asked or 'HEAD'}^{{commit}}")
    if not path.exists():
        with atomic_write(path) as stream:
            json.dump({"commit": asked}, stream)
    commit = json.loads(path.read_text())["commit"]
    if asked not in (None, commit):
        raise ValueError(
            f"{arguments.output_folder} has a study of commit {commit[:12]}, "
            f"but --commit is {asked[:12]}; name another --output_folder."
        )
    return commit


def say(words):
    """Prints a line with the time."""
    print(time.strftime("%H:%M:%S"), words, flush=True)


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, path = parser.add_argument, pathlib.Path
    add("study", type=path, help="YAML file")
    add("--output_folder", type=path, required=True)
    add("--data_folder", type=path, help="the corpus")
    add("--work_folder", type=path, help="where work trees are made")
    add("--wespeaker", type=path, help="a checkout, for `published`")
    add("--commit", help="default: HEAD at the first start")
    add("--jobs", type=int, default=1, help="runs at a time")
    add("--threads", type=int, default=1, help="of each run")
    add("--nice", type=int, default=0, help="19: behind all other work")
    add("--json", type=path, help="file that gets the rows too")
    add("--keep", type=path, help="folder of small files of ended runs")
    add("--retry", action="store_true", help="what failed is tried again")
    add("--collect", action="store_true", help="what has ended; runs nothing")
    add("--replicates", type=int, default=1000, help="draws of the speakers")
    add("--summary", action="store_true", help="from the rows; runs nothing")
    return parser


def check_arguments(arguments):
    """Raises where the command line does not fit; makes paths absolute."""
    for name in ("jobs", "threads"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"`--{name}` must be at least 1.")
    if not 0 <= arguments.nice <= 19:
        raise ValueError(f"`--nice` must be 0 to 19, got {arguments.nice}.")
    for name in ("output_folder", "data_folder", "work_folder", "wespeaker"):
        path = getattr(arguments, name)
        if path is None and name != "wespeaker" and not arguments.summary:
            raise ValueError(f"`--{name}` must be given.")
        if path is not None:
            setattr(arguments, name, path.resolve())
    folder = arguments.work_folder
    if folder and record.ROOT in (folder, *folder.parents):
        raise ValueError(
            f"`--work_folder` must be outside the repository, got {folder}."
        )


def run(arguments, study):
    """Checks and runs a study; exit code 1 if a run failed."""
    lock_output_folder(arguments.output_folder)
    tree = study_tree.make_tree(commit_of(arguments), arguments.work_folder)
    study_tree.check_import(tree)
    runs = study_file.check_study(
        study, tree, arguments.data_folder, arguments.wespeaker
    )
    runner = Runner(runs, arguments, tree)
    runner.check_folders()
    runner.check_json()
    runner.take_over()
    if arguments.retry:
        runner.forget_failures()
    runner.write_queue()
    say(f"{len(runs)} runs of commit {tree.name}, {runner.tree}")
    if not arguments.collect:
        runner.run_all()
    rows = runner.rows()
    runner.collect(
        study_differences.differences(
            study, rows, arguments.output_folder, arguments.replicates
        )
    )
    states = [runner.state(name) for name in runs]
    say(f"{states.count('done')} of {len(runs)} runs are done")
    return states.count("done") < len(runs)


def main(argv=None):
    """Runs, or goes on with, the study of the command line."""
    arguments = make_parser().parse_args(argv)
    try:
        check_arguments(arguments)
        study = study_file.read_study(arguments.study)
        unfinished = False
        if not arguments.summary:
            unfinished = run(arguments, study)
        path = arguments.output_folder / "records.json"
        if arguments.summary and arguments.json:
            path = arguments.json
        rows = json.loads(path.read_text())
        study_summary.write(study, rows, arguments.output_folder)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on.")
    sys.exit(int(unfinished))


if __name__ == "__main__":
    main()
