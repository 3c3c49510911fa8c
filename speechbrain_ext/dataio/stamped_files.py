"""Files whose names bear the fingerprint of what they were made of."""

import contextlib
import hashlib
import json
import os

from speechbrain_ext.utils.files import atomic_write

DIGITS = 12  # of the fingerprint that file names show


class StampedFiles:
    """Files of a folder, by plain names that link to stamped ones.

    ``train.csv`` is a link to ``train-1a2b3c4d5e6f.csv``: another setting has
    another fingerprint and never uses the file.

    Arguments
    ---------
    folder : str
        The folder.
    options : dict
        What the files are made of, as JSON can hold it.
    names : list of str
        Every plain name that a setting may make.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> files = StampedFiles(folder, {"seed": 1}, ["a.txt", "done.json"])
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
        """The path that bears the fingerprint.

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
        """Whether a former run with these options made everything.

        Arguments
        ---------
        names : list of str
            Plain names of what is wanted.
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
        try:
            with open(self.path(mark), encoding="utf-8") as stream:
                done = json.load(stream)
        except (OSError, ValueError):
            return False  # no mark or a broken one: it has to be done again
        return isinstance(done, dict) and self.options == {
            name: value for name, value in done.items() if name != "summary"
        }

    def mark_done(self, mark, summary):
        """Writes the mark that everything is whole.

        Arguments
        ---------
        mark : str
            Its plain name.
        summary : dict
            What it shall tell beside the options.
        """
        with atomic_write(self.path(mark)) as stream:
            json.dump({**self.options, "summary": summary}, stream, indent=2)
            stream.write("\n")

    def link(self, names):
        """Points plain names at these files, and takes the others away.

        Arguments
        ---------
        names : list of str
            The plain names that this setting makes.
        """
        for name in self.names:
            link = os.path.join(self.folder, name)
            if name in names:
                target = self._stamped(name)
                if os.path.islink(link) and os.readlink(link) == target:
                    continue
                temporary = f"{link}.tmp"
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                os.symlink(target, temporary)
                os.replace(temporary, link)
            elif os.path.lexists(link):
                # must not look as if these options had made it
                os.unlink(link)

    def _stamped(self, name):
        stem, ending = os.path.splitext(name)
        return f"{stem}-{self.stamp}{ending}"
