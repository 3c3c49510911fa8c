"""Work on many files by all cores, which a killed run takes up where it was."""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import shutil
import threading
import time

from speechbrain_ext.utils.files import LOCK
from speechbrain_ext.utils.journal import (
    JOURNAL,
    continue_file,
    foreign_words,
    has_grown,
)


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
    """Calls a function for each item in parallel and yields in their order.

    Arguments
    ---------
    function : callable
        Of the module's top level; what it returns must be JSON where there
        is a journal.
    items : list
        What it is called for, one by one.
    workers : int or None
        Processes; None for one a core, 1 for this process alone.
    journal : str
        A file that keeps what was returned, line by line; None for none. A
        run that finds it resumes after its last whole line. It is for the
        same function and items: its name has to tell them apart. Whoever is
        done with the results deletes it.

    Returns
    -------
    collections.abc.Iterator
        What the function returned for each item.

    Raises
    ------
    FileExistsError
        If the journal's name is that of a file which this project did not
        write.

    Example
    -------
    >>> list(ordered_map(abs, [-1, 2], workers=1))
    [1, 2]
    """
    kept = [] if journal is None else _resume(journal)[: len(items)]
    yield from kept
    items = items[len(kept) :]
    workers = min(workers or cores(), len(items))
    with contextlib.ExitStack() as stack:
        if workers <= 1:
            results = map(function, items)
        else:
            # Processes, because threads would take turns. Forked where that
            # exists, because a spawned one imports torch for seconds.
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


def _resume(journal):
    """The results of the whole lines; from a torn one on all is cut off."""
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
    """Lets no process outlive a parent that was killed."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def removed_on_error(folder):
    """Takes a folder away again that a block made for nothing.

    Arguments
    ---------
    folder : str
        The folder; it stays if it was there before, or is not empty.

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
    there = os.path.exists(folder)
    try:
        yield
    except (ValueError, OSError):
        if not there:
            with contextlib.suppress(OSError):
                if set(os.listdir(folder)) <= {LOCK, JOURNAL}:
                    shutil.rmtree(folder)
        raise
