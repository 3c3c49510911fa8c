"""Reports in one HTML file that includes its pictures."""

import base64
import datetime
import importlib.metadata
import pathlib
import platform
import re
from typing import NamedTuple

import jinja2
import pandas as pd

from speechbrain_ext.utils.files import atomic_write
from speechbrain_ext.utils.report_template import STYLE, TEMPLATE

MISSING = "\u2013"
# A number, maybe with an interval; columns of them are aligned to the right
NUMBER = re.compile(r"([-+]?[\d.]+(?:e[-+]?\d+)?|[-\u2013]|-?inf)( \[.*\])?")
MOST_COLUMNS = 4  # wider tables are shown as cards on a narrow screen


class Table(NamedTuple):
    """A table of a report.

    Arguments
    ---------
    frame : pandas.DataFrame
        Columns and rows.
    caption : str
        Caption of the table.
    notes : sequence of str
        Sentences below the table.

    Example
    -------
    >>> Table(pd.DataFrame({"EER %": [1.0]}), "Error rates.").notes
    ()
    """

    frame: pd.DataFrame
    caption: str
    notes: tuple = ()


class Picture(NamedTuple):
    """A picture of a report.

    Arguments
    ---------
    path : pathlib.Path
        PNG file.
    caption : str
        Caption of the picture.
    alt : str
        Alternative text for readers who cannot see the picture.

    Example
    -------
    >>> Picture(pathlib.Path("det.png"), "DET curves.", "Two curves").caption
    'DET curves.'
    """

    path: pathlib.Path
    caption: str
    alt: str


def results_table(results):
    """Formats the metrics of all lists and scorings, with their intervals.

    Arguments
    ---------
    results : list of dict
        Rows from ``speechbrain_ext.utils.evaluation.evaluate``, with further
        keys for the trial list and the scoring.

    Returns
    -------
    pandas.DataFrame
        One row of text per result; ``-`` for a missing metric.

    Example
    -------
    >>> row = {"scoring": "cosine", "EER %": 1.234, "EER % interval": (1, 2)}
    >>> results_table([row]).loc[0, "EER %"]
    '1.23 [1.00, 2.00]'
    """
    columns = list(dict.fromkeys(key for row in results for key in row))
    left = ("scores", "EER threshold", "speakers", "notes")
    rows = []
    for result in results:
        row = {}
        for key in columns:
            if key in left or key.endswith(" interval"):
                continue
            value = result.get(key, "-")
            if isinstance(value, float):
                digits = 2 if "%" in key else 3
                ends = result.get(f"{key} interval")
                value = f"{value:.{digits}f}"
                if ends is not None:
                    value += " [{:.{d}f}, {:.{d}f}]".format(*ends, d=digits)
            row[key] = value
        rows.append(row)
    return pd.DataFrame(rows)


def write_report(path, title, sections):
    """Writes a self-contained HTML file atomically.

    The date and the versions are shown below the title.

    Arguments
    ---------
    path : str | pathlib.Path
        The file.
    title : str
        Title and first heading.
    sections : list of tuple
        One ``(heading, parts)`` per section. A part is a text, a Table (or a
        pandas.DataFrame), a Picture (or the pathlib.Path of a PNG), or a list
        of parts that are shown side by side if there is room.

    Raises
    ------
    FileNotFoundError
        If a picture is missing.

    Example
    -------
    >>> path = getfixture("tmp_path") / "report.html"
    >>> table = Table(pd.DataFrame({"EER %": [1.234]}), "Error rates.")
    >>> write_report(path, "Trials", [("Figures", ["All of them.", table])])
    >>> "1.23<" in path.read_text()
    True
    """
    environment = jinja2.Environment(autoescape=True)
    text = environment.from_string(TEMPLATE).render(
        title=title,
        about=_about(),
        style=STYLE,
        sections=[(head, list(map(_part, parts))) for head, parts in sections],
    )
    # file names may contain bytes that are not UTF-8
    text = text.encode("utf-8", "backslashreplace").decode()
    with atomic_write(path) as file:
        file.write(text)


def _about():
    """Date and versions."""
    now = datetime.datetime.now(datetime.timezone.utc)
    versions = []
    for name in ("speechbrain_ext", "speechbrain", "torch"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:  # not installed
            versions.append(name)
    versions.append(f"Python {platform.python_version()}")
    return f"Written on {now:%Y-%m-%d, %H:%M} UTC with {', '.join(versions)}."


def _part(part):
    """Converts a part of a section to the form that the template needs."""
    if isinstance(part, pd.DataFrame):
        part = Table(part, "")
    if isinstance(part, pathlib.Path):
        part = Picture(part, part.stem, part.stem)
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Picture):
        data = base64.b64encode(part.path.read_bytes()).decode()
        return {"data": data, "caption": part.caption, "alt": part.alt}
    if isinstance(part, list):
        pictures = all(isinstance(one, Picture) for one in part)
        layout = "gallery" if pictures else "row"
        return {"parts": list(map(_part, part)), "layout": layout}
    return {"text": part}


def _table(table):
    """Converts a table: aligns its columns and separates its intervals."""
    texts = {
        name: [_text(value, name) for value in table.frame[name]]
        for name in table.frame
    }
    sides = {
        name: "number" if all(map(NUMBER.fullmatch, column)) else "text"
        for name, column in texts.items()
    }
    rows = []
    for values in zip(*texts.values(), strict=True):
        row = []
        for (name, side), value in zip(sides.items(), values, strict=True):
            value, space, interval = value.partition(" [")
            if side == "text":
                value, interval = value + space + interval, ""
            row.append((name, side, value, interval and f"[{interval}"))
        rows.append(row)
    intervals = any(cell[-1] for row in rows for cell in row)
    return {
        "columns": list(sides.items()),
        "rows": rows,
        "caption": table.caption,
        "notes": table.notes,
        "cards": intervals or len(sides) > MOST_COLUMNS,
    }


def _text(value, column):
    """A value as text; percentages have two decimals, other floats three."""
    if value is None or value != value or value == "-":
        return MISSING
    if isinstance(value, float):
        return f"{value:.{2 if '%' in str(column) else 3}f}"
    return str(value)
