"""The work tree of a study's commit, and what runs in it."""

import os
import pathlib
import subprocess
import sys

import record

from speechbrain_ext.utils.files import explain_disk_full, locked_folder

PACKAGE = "speechbrain_ext"


def make_tree(commit, work_folder):
    """A detached work tree of a commit, made or found; its path."""
    tree = work_folder / commit[:12]
    made = work_folder / f"{commit[:12]}.made"
    with locked_folder(work_folder, deep=False):
        if not made.exists():  # not there, or its making was killed
            if tree.exists():
                record.git("worktree", "remove", "--force", "--force", tree)
            record.git("worktree", "prune")
            with explain_disk_full(work_folder):
                record.git("worktree", "add", "--detach", tree, commit)
            made.touch()
        elif not tree.is_dir():
            made.unlink()
            raise ValueError(f"{tree} was deleted; run the same command again.")
    if record.tree_state(tree) != (commit, True):
        raise ValueError(
            f"The work tree {tree} is not commit {commit[:12]} any more, or "
            "was changed; take the changes back, or name another "
            "--work_folder."
        )
    return tree


def environment(tree, threads):
    """What a run sees: the package of its work tree, and its threads."""
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        str(threads),
    )
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # not another copy of the package, but what is installed in such a folder
    others = [one for one in others if not os.path.isdir(f"{one}/{PACKAGE}")]
    paths = os.pathsep.join(filter(None, [str(tree), *others]))
    return os.environ | threads | {"PYTHONPATH": paths}


def check_import(tree):
    """Raises where Python would import another copy of the package."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import speechbrain_ext as e; print(e.__file__)",
        ],
        env=environment(tree, 1),
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    )
    if tree not in pathlib.Path(done.stdout.strip()).parents:
        raise ValueError(
            f"Python imports {done.stdout.strip()}, not the package of {tree}; "
            "uninstall the other copy."
        )
