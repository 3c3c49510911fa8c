"""A page to listen to utterances and to mark their labels wrong or right."""

import os
import urllib.parse

import jinja2

from speechbrain_ext.utils.files import atomic_write
from speechbrain_ext.utils.report_template import STYLE

PAGE_STYLE = """
body { max-width: 112rem; }
th, td { overflow-wrap: normal; }
.name { max-width: 22rem; overflow-wrap: anywhere; min-width: 9rem; }
audio { width: 17rem; height: 2.2rem; display: block; }
fieldset { border: 0; padding: 0; margin: 0; white-space: nowrap; }
.bar { max-width: none; position: sticky; top: 0; background: #fff;
       padding: 0.6rem 0; border-bottom: 1px solid #d5dbe3; z-index: 1; }
button { font: inherit; padding: 0.3rem 0.9rem; margin-right: 1rem; }
tr[data-mark=wrong] { background: #fdeaea; }
tr[data-mark=right] { background: #e9f6ec; }
"""

SCRIPT = """
"use strict";
const rows = [...document.querySelectorAll("tr[data-id]")];
const said = document.getElementById("said");
let unsaved = false;
function markOf(row) {
  const box = row.querySelector("input:checked");
  return box ? box.value : "";
}
function show() {
  rows.forEach(row => { row.dataset.mark = markOf(row); });
  const count = mark => rows.filter(row => markOf(row) === mark).length;
  said.textContent = count("wrong") + " wrong, " + count("right") +
    " right, " + count("") + " not marked";
}
function cell(text) { return '"' + text.replaceAll('"', '""') + '"'; }
function save() {
  const lines = rows.filter(markOf).map(row =>
    [row.dataset.id, row.dataset.label, markOf(row)].map(cell).join(","));
  const text = ["ID,spk_id,mark", ...lines].join("\\n") + "\\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = "label_marks.csv";
  link.click();
  unsaved = false;
}
document.addEventListener("change", () => { unsaved = true; show(); });
document.getElementById("save").addEventListener("click", save);
window.addEventListener("beforeunload", event => {
  if (unsaved) { event.preventDefault(); }
});
show();
"""

TEMPLATE = """\
<!DOCTYPE html>
<html lang="en"><head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}</style></head>
<body>
<h1>{{ title }}</h1>
<p>{{ about }}</p>
<p class="bar"><button id="save" type="button">Save the marks</button>
<span id="said"></span></p>
<div class="table"><div class="scroll"><table>
<thead><tr><th scope="col" class="name">utterance</th>
<th scope="col" class="name">label</th>
{% for name in columns %}<th scope="col" class="number">{{ name }}</th>
{% endfor %}<th scope="col" class="name">best other
label</th>
<th scope="col">listen</th><th scope="col">the label is</th></tr></thead>
<tbody>
{% for row in rows %}
<tr data-id="{{ row.id }}" data-label="{{ row.label }}">
<td class="name">{{ row.id|e|replace("/", "/<wbr>"|safe) }}</td>
<td class="name">{{ row.label }}</td>
{% for value in row.scores %}<td class="number">{{ value }}</td>{% endfor %}
<td class="name">{{ row.other }}</td>
<td><audio controls preload="metadata" src="{{ row.src }}"></audio></td>
<td><fieldset>
{% for mark in ["wrong", "right"] %}
<label><input type="radio" name="mark{{ row.number }}" value="{{ mark }}"
{%- if row.mark == mark %} checked{% endif %}> {{ mark }}</label>
{% endfor %}
</fieldset></td></tr>
{% endfor %}
</tbody></table></div></div>
<script>{{ script | safe }}</script>
</body></html>
"""


def write_label_page(path, table, columns, title, about, marks=None):
    """Writes a page with a player and two boxes for each utterance.

    The page needs no network. It names the audio files by paths that are
    relative to its folder. Its button saves the marks as a CSV with the
    columns ID, spk_id and mark, see
    ``speechbrain_ext.dataio.label_marks.read_marks``.

    Arguments
    ---------
    path : str | pathlib.Path
        The file to write atomically.
    table : pandas.DataFrame
        Utterances in the order of the page: columns ID, duration, wav, start,
        stop, spk_id and those of ``columns``; ``best_other`` if it is known.
    columns : sequence of str
        Columns with the scores to show.
    title : str
        Title and heading.
    about : str
        Text below the title.
    marks : dict
        Marks to begin with, ``wrong`` or ``right`` by ID; None for none.

    Example
    -------
    >>> import pandas as pd
    >>> row = ["a/s/1", 2.0, "/data/a/s/1.wav", 0, 32000, "a", 0.25]
    >>> names = ["ID", "duration", "wav", "start", "stop", "spk_id", "cosine"]
    >>> table = pd.DataFrame([row], columns=names)
    >>> path = getfixture("tmp_path") / "labels.html"
    >>> write_label_page(path, table, ["cosine"], "Labels", "Listen.")
    >>> "data/a/s/1.wav" in path.read_text()
    True
    """
    folder, marks = os.path.dirname(os.path.abspath(path)), marks or {}
    shared = table["wav"].duplicated(keep=False)
    others = table.get("best_other", [""] * len(table))
    rows = []
    for (_, entry), other, piece in zip(
        table.iterrows(), others, shared, strict=True
    ):
        rows.append(
            {
                "id": entry["ID"],
                "label": entry["spk_id"],
                "scores": [f"{entry[name]:.3f}" for name in columns],
                "other": other,
                "src": _source(entry, folder, piece or entry["start"] > 0),
                "mark": marks.get(entry["ID"], ""),
                "number": len(rows),
            }
        )
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = environment.from_string(TEMPLATE).render(
        title=title,
        about=about,
        style=STYLE + PAGE_STYLE,
        script=SCRIPT,
        columns=columns,
        rows=rows,
    )
    # file names may contain bytes that are not UTF-8
    text = text.encode("utf-8", "backslashreplace").decode()
    with atomic_write(path) as file:
        file.write(text)


def _source(entry, folder, is_piece):
    """The address of an utterance, relative to the page."""
    path = os.path.relpath(os.path.abspath(entry["wav"]), folder)
    address = urllib.parse.quote(os.fsencode(path))
    if is_piece:  # a media fragment, in seconds
        rate = (entry["stop"] - entry["start"]) / entry["duration"]
        ends = entry["start"] / rate, entry["stop"] / rate
        address += "#t={:.3f},{:.3f}".format(*ends)
    return address
