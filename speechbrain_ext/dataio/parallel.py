"""Work on many files by all cores; a killed run can resume."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import json
import multiprocessing
import os
import threading
import time

from speechbrain_ext.utils.journal import (
    JOURNAL,
    continue_file,
    foreign_words,
    has_grown,
)
from speechbrain_ext.utils.temporaries import LOCK


def cores():
    """Cores that this process may use.

    Returns
    -------
    int
        At least 1.

    Example
    -------
    >>> cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def ordered_map(function, items, workers=None, journal=None):
    """Calls a function for each item in parallel; yields results in order.

    Arguments
    ---------
    function : callable
        From the module's top level. With a journal, JSON must be able to hold
        its results.
    items : list
        Its arguments, one per call.
    workers : int or None
        Processes; None for one per core, 1 for only this process.
    journal : str
        A file that keeps the results, line by line; None for none. A run that
        finds it resumes after the last complete line. Its name must be unique
        for the function and the items. The caller deletes it.

    Returns
    -------
    collections.abc.Iterator
        What the function returned for each item.

    Raises
    ------
    FileExistsError
        If the journal is a file that this project did not write.
    OSError
        If a process was killed.

    Example
    -------
    >>> list(ordered_map(abs, [-1, 2], workers=1))
    [1, 2]
    """
    kept = [] if journal is None else _resume(journal)[: len(items)]
    yield from kept
    items = items[len(kept) :]
    workers = min(workers or cores(), len(items))
    with _told_if_killed(), contextlib.ExitStack() as stack:
        if workers <= 1:
            results = map(function, items)
        else:
            # Processes, because threads would wait for each other. Forked
            # if possible: a spawned one imports torch, which takes seconds.
            methods = multiprocessing.get_all_start_methods()
            method = "fork" if "fork" in methods else "spawn"
            pool = concurrent.futures.ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context(method),
                initializer=_end_with_parent,
                initargs=(os.getpid(),),
            )
            stack.callback(pool.shutdown, cancel_futures=True)
            results = pool.map(function, items)
        if journal is None:
            yield from results
            return
        stream = stack.enter_context(open(journal, "a", encoding="utf-8"))
        for result in results:
            stream.write(json.dumps(result) + "\n")
            stream.flush()
            yield result


@contextlib.contextmanager
def _told_if_killed():
    try:
        yield
    except concurrent.futures.process.BrokenProcessPool as error:
        raise OSError(
            "A process that read files was killed, probably for lack of "
            "memory; run the command again, with fewer `workers`."
        ) from error


def _resume(journal):
    """The results of complete lines; removes all from the first broken one."""
    kept, whole = [], 0
    if not os.path.lexists(journal):
        continue_file(journal)
        return kept
    if not has_grown(journal):
        raise FileExistsError(foreign_words(journal))
    with open(journal, "rb+") as stream:
        for line in stream:
            try:
                result = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            kept.append(result)
            whole += len(line)
        stream.truncate(whole)
    continue_file(journal)
    return kept


def _end_with_parent(parent):
    """Ends this process when its parent was killed."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def removed_on_error(folder):
    """Removes a folder that a block created before it failed.

    Arguments
    ---------
    folder : str
        The folder. If it existed before, only its new lock is removed. It
        stays as it is if the block has put anything else into it.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "new"
    >>> try:
    ...     with removed_on_error(folder):
    ...         folder.mkdir()
    ...         raise ValueError("bad input")
    ... except ValueError:
    ...     folder.exists()
    False
    """
    there = os.path.isdir(folder)
    before = set(os.listdir(folder)) if there else set()
    try:
        yield
    except (ValueError, OSError):
        with contextlib.suppress(OSError):
            made = set(os.listdir(folder)) - before
            if made <= {LOCK, JOURNAL} and _is_free(folder):
                for name in made:
                    os.unlink(os.path.join(folder, name))
                if not there:
                    os.rmdir(folder)
        raise


def _is_free(folder):
    """Whether no other process has locked a folder."""
    try:
        with open(os.path.join(folder, LOCK), encoding="utf-8") as stream:
            return stream.read().startswith(f"process {os.getpid()} of ")
    except FileNotFoundError:
        return True
