"""Enrolled speakers: their names and embeddings, in memory or in one file."""

import os
import pathlib

import numpy as np

from speechbrain_ext.utils.files import atomic_write, locked_folder
from speechbrain_ext.utils.journal import record_file

FORMAT = "speechbrain_ext enrolments 1"
PATIENCE = 60.0  # seconds to wait for other processes that are saving


class Enrolments:
    """Names of enrolled speakers and one embedding for each.

    With a file, every change is saved before the call returns. The file is
    replaced atomically: after a crash it has the old or the new content.
    Several processes may change the same file. A change locks the folder of
    the file and starts from the current content, so no enrolment is lost. The
    file is bound to the fingerprint of the encoder, because embeddings of two
    encoders cannot be compared.

    Arguments
    ---------
    fingerprint : str
        Fingerprint of the encoder, see
        ``speechbrain_ext.inference.embedding_store.model_fingerprint``.
    path : str | pathlib.Path
        The file (NumPy's npz); it may be missing. None keeps the enrolments
        in memory.

    Raises
    ------
    ValueError
        If the file is damaged, is not a file of enrolments, or belongs to
        another encoder.
    OSError
        If the file cannot be read.

    Example
    -------
    >>> path = getfixture("tmp_path") / "enrolled.npz"
    >>> enrolments = Enrolments("0123abcd", path)
    >>> enrolments.add({"ada": np.ones(4)})
    >>> Enrolments("0123abcd", path).read()["ada"].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, fingerprint, path=None):
        self.fingerprint = fingerprint
        # of a link the target is replaced, not the link
        real = path and os.path.realpath(path)
        self.path = None if path is None else pathlib.Path(real)
        self._kept, self._stamp = {}, None
        self.read()

    def read(self):
        """The current enrolments, also those that other processes saved.

        Returns
        -------
        dict
            Maps each name to its embedding, np.ndarray float32 [embedding],
            in the order of enrolment.

        Raises
        ------
        ValueError
            If the file is damaged, is not a file of enrolments, or belongs to
            another encoder.
        OSError
            If the file cannot be read.
        """
        if self.path is not None:
            try:
                held = os.stat(self.path)
            except FileNotFoundError:
                self._kept, self._stamp = {}, None
                return {}
            stamp = held.st_ino, held.st_mtime_ns, held.st_size
            if stamp != self._stamp:
                self._kept = _read(self.path, self.fingerprint)
                self._stamp = stamp
        return dict(self._kept)

    def add(self, speakers, replace=False):
        """Adds speakers and saves them.

        Arguments
        ---------
        speakers : dict
            Maps each name to its embedding, [embedding].
        replace : bool
            Whether a name that is enrolled already gets the new embedding.

        Raises
        ------
        ValueError
            If a name is enrolled already, is empty, or has control
            characters, or an embedding is not finite, is zero, or has another
            size than the others. Nothing is saved then.
        OSError
            If the file cannot be written.
        """

        def added(kept):
            for name, embedding in speakers.items():
                _require_new(name, kept, replace)
                kept[name] = _row(name, embedding, kept)
            return kept

        self._change(added)

    def require_new(self, name, replace=False):
        """Raises if a speaker cannot be added under a name.

        Arguments
        ---------
        name : str
            The name.
        replace : bool
            As in ``add``.

        Raises
        ------
        ValueError
            If the name is enrolled already, is empty, or has control
            characters.
        """
        _require_new(name, self.read(), replace)

    def remove(self, name):
        """Removes a speaker and saves the others.

        Arguments
        ---------
        name : str
            The name.

        Raises
        ------
        ValueError
            If the name is not enrolled.
        OSError
            If the file cannot be written.
        """

        def removed(kept):
            require_enrolled(name, kept, self.path)
            del kept[name]
            return kept

        self._change(removed)

    def embedding(self, name):
        """The embedding of an enrolled speaker.

        Arguments
        ---------
        name : str
            The name.

        Returns
        -------
        np.ndarray
            float32, [embedding].

        Raises
        ------
        ValueError
            If the name is not enrolled.
        """
        kept = self.read()
        require_enrolled(name, kept, self.path)
        return kept[name]

    def _change(self, change):
        """Applies a function to the enrolments and saves its result."""
        if self.path is None:
            self._kept = change(self.read())
            return
        path = self.path.absolute()
        # only temporary files of this folder are cleared, so deep=False
        with locked_folder(path.parent, PATIENCE, deep=False):
            kept = change(self.read())
            if path.is_file():
                # `read` has shown that it is one of ours, also if it was
                # copied here without its journal
                record_file(os.fspath(path.parent), path.name, path)
            with atomic_write(path, "wb") as stream:
                _write(stream, kept, self.fingerprint)


def require_enrolled(name, enrolled, path=None):
    """Raises if a name is not enrolled.

    Arguments
    ---------
    name : str
        The name.
    enrolled : collection of str
        The enrolled names.
    path : str | pathlib.Path
        The file of the enrolments, for the error message, or None.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists some that are known.

    Example
    -------
    >>> require_enrolled("ada", {"ada"})
    >>> require_enrolled("bob", {"ada"})
    Traceback (most recent call last):
    ValueError: 'bob' is not enrolled; enrolled are: ada.
    """
    if name in enrolled:
        return
    known = list(enrolled)
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    listed = ", ".join(known[:20]) + more if known else "none"
    place = "" if path is None else f" in {path}"
    raise ValueError(
        f"{name!r} is not enrolled{place}; enrolled are: {listed}."
    )


def _require_new(name, kept, replace):
    """Raises if a name is not valid, or taken."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ValueError(
            "A name must be a string with a visible character and without "
            f"control characters, got {name!r}."
        )
    if name in kept and not replace:
        raise ValueError(
            f"{name!r} is enrolled already; pass replace=True to replace the "
            "enrolment, or choose another name."
        )


def _row(name, embedding, kept):
    """The embedding as float32, checked against the others."""
    row = np.asarray(embedding, dtype=np.float32)
    size = next((len(other) for other in kept.values()), row.size)
    if row.shape != (size,) or not np.isfinite(row).all() or not row.any():
        raise ValueError(
            f"The embedding of {name!r} must have shape [{size}], with finite "
            f"values that are not all 0, got shape {list(row.shape)}."
        )
    return row


def _write(stream, kept, fingerprint):
    """Writes enrolments; an empty dict too."""
    rows = list(kept.values())
    np.savez(
        stream,
        format=np.str_(FORMAT),
        fingerprint=np.str_(fingerprint),
        names=np.array(list(kept), dtype=np.str_),
        embeddings=np.stack(rows) if rows else np.zeros((0, 0), np.float32),
    )


def _read(path, fingerprint):
    """Reads and checks a file of enrolments."""
    try:
        # NumPy does not close a broken file that it has opened itself
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if str(kept["format"]) != FORMAT:
                raise ValueError(f"its format is {kept['format']}")
            owner, names = str(kept["fingerprint"]), kept["names"].tolist()
            rows = kept["embeddings"]
        if rows.ndim != 2 or len(rows) != len(names):
            raise ValueError(f"{len(names)} names for shape {rows.shape}")
        if rows.dtype != np.float32 or not np.isfinite(rows).all():
            raise ValueError("its embeddings are not finite float32 values")
    except OSError:
        raise
    except Exception as error:  # a broken file can raise anything
        raise ValueError(
            f"{path} is damaged, or not a file of enrolments ({error}); it is "
            "left as it is: restore it from a copy, or name another file."
        ) from error
    if owner != fingerprint:
        raise ValueError(
            f"{path} has the enrolments of another encoder (fingerprint "
            f"{owner[:16]}, this encoder has {fingerprint[:16]}), and their "
            "embeddings cannot be compared; load that encoder, or enrol the "
            "speakers again in another file."
        )
    return dict(zip(names, rows, strict=True))
