"""Lists and tables of the user: finding, reading and quoting them."""

import filecmp
import hashlib
import io
import os
import stat

import pandas as pd

LONGEST_LINE = 2**24  # bytes; no line of a list comes near
# Columns whose names lose white space at their ends, which nobody sees: a
# speaker `a ` would be another one than `a`
NAMES = ("ID", "spk_id", "spk_id_clean")
LARGEST = 2**53  # of a number: whole numbers above it are not exact in float64
SHOWN = 200  # characters of an input that a message quotes


def shorten(text, longest=SHOWN):
    """Shortens an input to one line that a message can quote.

    Arguments
    ---------
    text : str
        The input, or anything that ``str`` takes.
    longest : int
        The most characters to show.

    Returns
    -------
    str
        The text without line breaks and control characters.

    Example
    -------
    >>> shorten("1 a\\x1b b\\n", longest=20), shorten("abcdefgh", longest=5)
    ('1 a\\\\x1b b', 'ab...')
    """
    text = str(text)
    plain = " ".join(text[: longest + 1].split())
    plain = "".join(
        letter if letter.isprintable() else repr(letter)[1:-1]
        for letter in plain
    )
    if len(text) > longest or len(plain) > longest:
        plain = plain[: longest - 3] + "..."
    return plain


def find_file(name, folders, what):
    """Finds a file that a YAML or the command line names.

    A relative name is searched for in the working directory, then in the data
    folders.

    Arguments
    ---------
    name : str
        The name of the file or folder.
    folders : list of str
        Data folders.
    what : str
        What a message calls it.

    Returns
    -------
    str
        Its absolute path.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    ValueError
        If several files have that name and differ.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "veri.txt").touch()
    >>> found = find_file("veri.txt", [folder], "The trial list")
    >>> found == str(folder / "veri.txt")
    True
    """
    name = os.fspath(name)
    places = [os.path.join(folder, name) for folder in [os.curdir, *folders]]
    places = list(dict.fromkeys(map(os.path.abspath, places)))
    held = [place for place in places if os.path.exists(place)]
    if not held:
        raise FileNotFoundError(
            f"{what} {shorten(name)} does not exist (looked for "
            f"{shorten(', '.join(places), 1000)}); give its absolute path, or "
            "one relative to the working directory or to a data folder."
        )
    for other in held[1:]:
        if not _same(held[0], other):
            raise ValueError(
                f"{what} {name} could be {held[0]} or {other}, which differ; "
                "give the absolute path of the one that is meant."
            )
    return held[0]


def read_text(path, what):
    """Reads a whole list and checks that it is text.

    Arguments
    ---------
    path : str
        A UTF-8 file, with or without a byte order mark.
    what : str
        What a message calls it, for example ``trial list``.

    Returns
    -------
    str
        The text; its lines end with ``\\n``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is not a regular file, or not text.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.txt"
    >>> _ = path.write_bytes(b"\\xef\\xbb\\xbf1 a b\\r\\n")
    >>> read_text(path, "trial list")
    '1 a b\\n'
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # a FIFO would be waited for
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise ValueError(
                f"The {what} {path} is {kind}; give the path of a text file."
            )
        with open(path, "rb") as stream:
            raw = _read_bytes(stream, path, what)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The {what} {path} does not exist; check its path."
        ) from error
    except OSError as error:
        raise OSError(
            f"The {what} {path} cannot be read ({error.strerror}); check its "
            "path and its permissions."
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The {what} {path} has a byte in line "
            f"{_line_of(raw, error.start)} that is not UTF-8; save it as UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_digest(path, what):
    """Computes a digest of a text file, whatever its line ends.

    Arguments
    ---------
    path : str
        The file, UTF-8.
    what : str
        What a message calls it, for example ``trial list``.

    Returns
    -------
    str
        SHA-256 of its text as ``read_text`` returns it, hexadecimal.

    Raises
    ------
    OSError
        If it does not exist or cannot be read.
    ValueError
        If it is not a regular file, or not text.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.txt"
    >>> _ = path.write_bytes(b"1 a b\\r\\n")
    >>> text_digest(path, "trial list")[:8]
    '075042c3'
    """
    return hashlib.sha256(read_text(path, what).encode()).hexdigest()


def read_lines(path, what):
    """Reads the lines of a list; empty lines are skipped.

    Arguments
    ---------
    path : str
        The list, UTF-8.
    what : str
        What a message calls it, for example ``trial list``.

    Yields
    ------
    number : int
        The line's number, from 1.
    line : str
        The line, without white space at its ends.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is not a regular file, or not text.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.txt"
    >>> _ = path.write_text("a b\\n\\nc d\\n")
    >>> list(read_lines(path, "list"))
    [(1, 'a b'), (3, 'c d')]
    """
    lines = read_text(path, what).split("\n")
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line:
            yield number, line


def read_table(path, what, needed):
    """Reads a CSV; every value is text.

    Arguments
    ---------
    path : str
        The CSV, UTF-8. Its first line has the names of the columns.
    what : str
        What a message calls it, for example ``manifest``.
    needed : list of str
        Columns that it must have.

    Returns
    -------
    pandas.DataFrame
        The rows. Their index is the number of the line, from 2. Values that
        are missing at the end of a row are empty texts. IDs and speakers have
        no white space at their ends.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is not a table, lacks a column or has one twice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.csv"
    >>> _ = path.write_text("ID, wav\\n007, 7.wav\\n")
    >>> read_table(path, "list", ["ID"]).loc[2].tolist()
    ['007', '7.wav']
    """
    text = read_text(path, what)
    names = _parse(text, path, what, nrows=1).iloc[0].str.strip()
    missing = [name for name in needed if name not in set(names)]
    if missing:
        raise ValueError(
            f"The {what} {path} lacks the columns {', '.join(missing)}; its "
            f"first line is `{shorten(','.join(names))}`, and a table needs "
            f"{', '.join(needed)}, with commas between."
        )
    if names.duplicated().any():
        raise ValueError(
            f"The {what} {path} has the column "
            f"{shorten(names[names.duplicated()].iloc[0])} twice; remove one."
        )
    table = _parse(text, path, what)
    table = table.iloc[1:].set_axis(names.tolist(), axis=1)
    table.index = table.index + 1
    table = table[(table != "").any(axis=1)].fillna("")
    for name in set(NAMES) & set(table):
        table[name] = table[name].str.strip()
    return table


def _parse(text, path, what, nrows=None):
    """The cells of a CSV, including its first line."""
    try:
        # read without a header, so that a row that is too long is an error
        return pd.read_csv(
            io.StringIO(text),
            header=None,
            nrows=nrows,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=False,
            skipinitialspace=True,
        )
    except ValueError as error:  # pandas' parser errors are among them
        raise ValueError(
            f"The {what} {path} is not a CSV table ({shorten(error)}); "
            "correct it, or write it again."
        ) from error


def parse_numbers(texts, whole=False):
    """Converts a column of a table to numbers.

    Arguments
    ---------
    texts : pandas.Series
        Texts.
    whole : bool
        Whether only whole numbers count.

    Returns
    -------
    pandas.Series
        Numbers; NaN for a text that is not a number, is infinite, or is
        beyond 2^53, where float64 is not exact.

    Example
    -------
    >>> texts = pd.Series(["1e3", "1e20", "x", "0.5"])
    >>> parse_numbers(texts, whole=True).tolist()
    [1000.0, nan, nan, nan]
    """
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    good = numbers.abs() <= LARGEST
    if whole:
        good &= numbers % 1 == 0
    return numbers.where(good)


def _same(one, other):
    """Whether two paths lead to the same content."""
    if os.path.samefile(one, other):
        return True
    files = os.path.isfile(one) and os.path.isfile(other)
    return files and filecmp.cmp(one, other, shallow=False)


def _read_bytes(stream, path, what):
    """Reads a file in pieces; stops early if it is not text."""
    pieces = []
    while piece := stream.read(LONGEST_LINE):
        pieces.append(piece)
        if b"\0" in piece:
            raw = b"".join(pieces)
            raise ValueError(
                f"The {what} {path} has a zero byte in line "
                f"{_line_of(raw, raw.index(0))} and is not text; give a text "
                "file, as UTF-8."
            )
        full = len(piece) == LONGEST_LINE
        if full and b"\n" not in piece and b"\r" not in piece:
            raw = b"".join(pieces)
            raise ValueError(
                f"The {what} {path} has a line {_line_of(raw, len(raw))} that "
                f"is longer than {LONGEST_LINE} bytes; it is not a list."
            )
    return b"".join(pieces)


def _line_of(raw, position):
    """The number of the line of a byte."""
    before = raw[:position].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return before.count(b"\n") + 1


def path_below(path, folders):
    """The absolute path of a file that a list names.

    Arguments
    ---------
    path : str
        Absolute, or below one of the folders.
    folders : list of str
        The folders; the first that has the file is taken, and if none has it,
        the first of all.

    Returns
    -------
    str
        The path.

    Example
    -------
    >>> path_below("id1/1.wav", ["/data"])
    '/data/id1/1.wav'
    """
    if os.path.isabs(path):
        return path
    places = [os.path.join(os.path.abspath(f), path) for f in folders]
    if len(places) == 1:  # the disk need not be asked
        return places[0]
    return next(filter(os.path.exists, places), places[0])
