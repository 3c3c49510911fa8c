"""A report in one HTML file, with its pictures in it."""

import base64
import html
import pathlib

import pandas as pd

from speechbrain_ext.utils.files import atomic_write

STYLE = """
body { font-family: sans-serif; margin: 2em auto; max-width: 70em;
       color: #222; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { border: 1px solid #ccc; padding: 0.25em 0.6em; text-align: right; }
th { background: #f0f0f0; }
td:first-child, th:first-child, td.text { text-align: left; }
img { max-width: 34em; vertical-align: top; margin: 0.5em 1em 0.5em 0; }
p.note { color: #555; }
"""


def figures_table(results):
    """The figures of all lists and scorings, with their intervals, as text.

    Arguments
    ---------
    results : list of dict
        Rows as ``speechbrain_ext.utils.figures.figures`` makes them, with
        what they are of.

    Returns
    -------
    pandas.DataFrame
        A row each; ``-`` where a row lacks a figure.

    Example
    -------
    >>> row = {"scoring": "cosine", "EER %": 1.234, "EER % interval": (1, 2)}
    >>> figures_table([row]).loc[0, "EER %"]
    '1.23 [1.00, 2.00]'
    """
    columns = list(dict.fromkeys(key for row in results for key in row))
    left = ("scores", "EER threshold")
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
    """Writes a self-contained HTML file; it is whole or not there.

    Arguments
    ---------
    path : str | pathlib.Path
        Where to.
    title : str
        Title and first heading.
    sections : list of tuple
        ``(heading, parts)`` each; a part is a text, a pandas.DataFrame or
        the pathlib.Path of a PNG, which is taken in.

    Raises
    ------
    FileNotFoundError
        If a picture is not there.

    Example
    -------
    >>> path = getfixture("tmp_path") / "report.html"
    >>> table = pd.DataFrame({"EER %": [1.234]})
    >>> write_report(path, "Trials", [("Figures", ["All of them.", table])])
    >>> "1.23<" in path.read_text()
    True
    """
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>",
        f"<body><h1>{html.escape(title)}</h1>",
    ]
    for heading, parts in sections:
        lines.append(f"<h2>{html.escape(heading)}</h2>")
        lines += [_part(part) for part in parts]
    lines.append("</body></html>\n")
    with atomic_write(path) as file:
        file.write("\n".join(lines))


def _part(part):
    """A text, a table or a picture as HTML."""
    if isinstance(part, pd.DataFrame):
        return _table(part)
    if isinstance(part, pathlib.Path):
        data = base64.b64encode(part.read_bytes()).decode()
        name = html.escape(part.stem)
        return f'<img alt="{name}" src="data:image/png;base64,{data}">'
    return f'<p class="note">{html.escape(part)}</p>'


def _table(table):
    """A table; floats with two decimals in percent, else with three."""
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in table.columns)
    lines = [f"<table><tr>{head}</tr>"]
    for row in table.itertuples(index=False):
        cells = [
            _cell(value, name)
            for value, name in zip(row, table.columns, strict=True)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>"])


def _cell(value, column):
    if isinstance(value, str):
        return f'<td class="text">{html.escape(value)}</td>'
    if value is None or value != value:
        return "<td>&ndash;</td>"
    if isinstance(value, float):
        return f"<td>{value:.{2 if '%' in str(column) else 3}f}</td>"
    return f"<td>{html.escape(str(value))}</td>"
