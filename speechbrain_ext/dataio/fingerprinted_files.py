"""Files with a fingerprint of their settings in their names."""

import contextlib
import hashlib
import json
import os
import re

from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.utils.files import (
    atomic_link,
    atomic_write,
    remove_own,
    require_own,
)
from speechbrain_ext.utils.journal import is_own

DIGITS = 12  # of the fingerprint that file names show


class FingerprintedFiles:
    """Files of a folder, with plain names that link to the real ones.

    ``train.csv`` is a link to ``train-1a2b3c4d5e6f.csv``. Another setting has
    another fingerprint and never uses that file. A file of the user's that has
    one of the names is never replaced.

    Arguments
    ---------
    folder : str
        The folder.
    options : dict
        The settings that the files depend on; JSON must be able to hold them.
    names : list of str
        Every plain name that a setting may make.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> files = FingerprintedFiles(folder, {"seed": 1}, ["a.txt", "done.json"])
    >>> with open(files.path("a.txt"), "w") as stream:
    ...     _ = stream.write("x")
    >>> files.mark_done("done.json", "summary")
    >>> files.link(["a.txt", "done.json"])
    >>> files.are_done(["a.txt"], "done.json"), (folder / "a.txt").read_text()
    (True, 'x')
    """

    def __init__(self, folder, options, names):
        self.folder = folder
        self.options = options
        self.names = names
        said = json.dumps(options).encode()
        self.stamp = hashlib.sha256(said).hexdigest()[:DIGITS]

    def path(self, name):
        """Gives the path with the fingerprint.

        Arguments
        ---------
        name : str
            The plain name.

        Returns
        -------
        str
            The path.
        """
        return os.path.join(self.folder, self._stamped(name))

    def are_done(self, names, mark):
        """Whether an earlier run with these options made everything.

        Arguments
        ---------
        names : list of str
            Plain names of the files.
        mark : str
            Plain name of the mark, which is written last.

        Returns
        -------
        bool
            False where a file, the mark or its link is missing or broken.
        """
        if not all(os.path.exists(self.path(name)) for name in names):
            return False
        if not os.path.lexists(os.path.join(self.folder, mark)):
            return False
        if not os.path.isfile(self.path(mark)):
            return False  # reading a pipe would block
        try:
            with open(self.path(mark), encoding="utf-8") as stream:
                done = json.load(stream)
        except (OSError, ValueError):
            return False  # the mark is broken
        return isinstance(done, dict) and self.options == {
            name: value for name, value in done.items() if name != "summary"
        }

    def mark_done(self, mark, summary):
        """Writes the mark that everything is complete.

        Arguments
        ---------
        mark : str
            Its plain name.
        summary : dict
            What it holds besides the options.
        """
        with atomic_write(self.path(mark)) as stream:
            json.dump({**self.options, "summary": summary}, stream, indent=2)
            stream.write("\n")

    def are_linked(self, names):
        """Whether ``link`` has nothing to do.

        Arguments
        ---------
        names : list of str
            The plain names that this setting makes.

        Returns
        -------
        bool
            True if each of them is a link to its file, and there is no other.
        """
        links = {name: os.path.join(self.folder, name) for name in self.names}
        there = {n: p for n, p in links.items() if os.path.lexists(p)}
        return there.keys() == set(names) and all(
            os.path.islink(path) and os.readlink(path) == self._stamped(name)
            for name, path in there.items()
        )

    def link(self, names):
        """Links plain names to these files, and removes the others.

        Arguments
        ---------
        names : list of str
            The plain names that this setting makes.

        Raises
        ------
        FileExistsError
            If one is a file of the user's.
        """
        self.require_free()
        for name in self.names:
            link = os.path.join(self.folder, name)
            target = self._stamped(name)
            if os.path.islink(link) and not is_own(link):
                os.unlink(link)  # from a version without a journal
            if name not in names:
                # it would look as if these options had made it
                remove_own(link)
            elif not os.path.islink(link) or os.readlink(link) != target:
                atomic_link(link, target)

    def require_free(self):
        """Raises where a plain name is a file of the user's.

        Raises
        ------
        FileExistsError
            If one exists and is not a link to a file with a fingerprint.
        """
        for name in self.names:
            link = os.path.join(self.folder, name)
            form = re.escape(self._stamped(name))
            form = form.replace(self.stamp, f"[0-9a-f]{{{DIGITS}}}")
            if os.path.islink(link) and re.fullmatch(form, os.readlink(link)):
                continue
            require_own(link)

    def _stamped(self, name):
        stem, ending = os.path.splitext(name)
        return f"{stem}-{self.stamp}{ending}"


@contextlib.contextmanager
def restored_links(folder, names):
    """Points the links of a folder to what they were if a block fails.

    The block must hold the lock of the folder; the main process restores them.

    Arguments
    ---------
    folder : str
        The folder.
    names : iterable of str
        The plain names. Nothing is done if none of them is a link.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> atomic_link(folder / "a.txt", "a-1.txt")
    >>> try:
    ...     with restored_links(folder, ["a.txt"]):
    ...         atomic_link(folder / "a.txt", "a-2.txt")
    ...         raise ValueError("bad labels")
    ... except ValueError:
    ...     os.readlink(folder / "a.txt")
    'a-1.txt'
    """
    links = {name: os.path.join(folder, name) for name in names}
    before = {n: os.readlink(p) for n, p in links.items() if os.path.islink(p)}
    try:
        yield
    except (ValueError, OSError):
        if before and if_main_process():
            for name, link in links.items():
                now = os.readlink(link) if os.path.islink(link) else None
                if name not in before and now and is_own(link):
                    os.unlink(link)
                elif name in before and now != before[name]:
                    atomic_link(link, before[name])
        raise
