"""The HTML report."""

import pathlib
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from speechbrain_ext.utils.plots import histogram_plot
from speechbrain_ext.utils.report import (
    Picture,
    Table,
    results_table,
    write_report,
)

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style></title><b>",
    "{{ 7 * 7 }} {% raw %}",
    "&lt;i&gt; &amp; &#x27;",
    "Z\u00fcrich \u8a71\u8005 \U0001f600",
]


class Reader(HTMLParser):
    """Collects cells and pictures, and sees that tags are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.cells, self.pictures = [], [], []
        self.tags, self.texts, self.attributes = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        elif tag not in ("meta", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.append((self.open[-1], data))
        if self.open and self.open[-1] == "td":
            self.cells.append(data)

    def of(self, tag):
        """The texts of one kind of element."""
        return [text for kind, text in self.texts if kind == tag]


def read(path):
    """A report as a browser would take it."""
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def picture(tmp_path):
    """A small picture."""
    path = tmp_path / "scores.png"
    histogram_plot({"target": [0.5, 0.6]}, path, "score")
    return path


def test_report_needs_no_other_file(tmp_path):
    picture = tmp_path / "scores.png"
    histogram_plot({"target": [0.5, 0.6]}, picture, "score")
    table = pd.DataFrame(
        {
            "system": ["<b> & co", "two"],
            "EER %": [1.2345, None],
            "minDCF": [0.123456, 1.0],
            "trials": [7, 8],
        }
    )
    path = tmp_path / "report.html"
    write_report(path, "A & B", [("Figures <1>", ["x < y", table, picture])])
    reader = Reader()
    text = path.read_text()
    reader.feed(text)
    assert reader.open == []
    assert reader.cells == (
        ["<b> & co", "1.23", "0.123", "7"] + ["two", "\u2013", "1.000", "8"]
    )
    assert reader.pictures[0].startswith("data:image/png;base64,iVBOR")
    assert "http" not in text
    assert [p.name for p in tmp_path.iterdir()].count("report.html") == 1


def test_report_without_its_picture_is_not_written(tmp_path):
    path = tmp_path / "report.html"
    with pytest.raises(FileNotFoundError):
        write_report(path, "A", [("B", [pathlib.Path(tmp_path / "no.png")])])
    assert not list(tmp_path.iterdir())


def test_report_tells_date_and_versions(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, "A", [])
    said = read(path).of("p")[0]
    assert re.match(r"Written on \d{4}-\d\d-\d\d, \d\d:\d\d UTC with ", said)
    for word in ("speechbrain_ext", "speechbrain 1.", "torch 2.", "Python 3."):
        assert word in said
    assert str(tmp_path) not in path.read_text()


@pytest.mark.parametrize("name", HOSTILE)
def test_report_escapes_all_texts(tmp_path, picture, name):
    path = tmp_path / "report.html"
    table = Table(pd.DataFrame({name: [name], "b": [1]}), name, [name])
    parts = [name, table, [Picture(picture, name, name)], [table, table]]
    write_report(path, name, [(name, parts)])
    reader = read(path)
    assert not {"script", "b", "i"} & set(reader.tags)
    assert reader.tags.count("img") == 1
    for tag in ("title", "h1", "h2", "th", "td", "caption", "figcaption"):
        assert name in reader.of(tag), tag
    assert reader.of("p").count(name) == 4  # a text and three notes
    attributes = [values for tag, values in reader.attributes]
    assert {"alt": name, "src": reader.pictures[0]} in attributes
    assert not [v for v in attributes if any(k.startswith("on") for k in v)]
    names = [v["data-name"] for v in attributes if "data-name" in v]
    assert names == [name, "b"] * 3


def test_report_takes_names_that_are_no_text(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, "list \udcff", [("\udcff", ["\udcff"])])
    assert read(path).of("h1") == ["list \\udcff"]


def test_every_picture_and_table_has_a_caption(tmp_path, picture):
    path = tmp_path / "report.html"
    table = Table(pd.DataFrame({"EER %": [1.0]}), "Error rates.")
    shown = Picture(picture, "Scores of a list.", "A histogram")
    write_report(path, "A", [("B", [[table, shown], [shown, shown], picture])])
    reader = read(path)
    assert reader.tags.count("figure") == reader.tags.count("figcaption") == 4
    assert reader.tags.count("table") == reader.tags.count("caption") == 1
    assert reader.of("figcaption") == ["Scores of a list."] * 3 + ["scores"]
    alts = [v["alt"] for tag, v in reader.attributes if tag == "img"]
    assert alts == ["A histogram"] * 3 + ["scores"]
    layouts = [v.get("class") for tag, v in reader.attributes if tag == "div"]
    assert layouts.count("row") == layouts.count("gallery") == 1


def test_numbers_are_to_the_right_as_their_headings(tmp_path):
    path = tmp_path / "report.html"
    frame = pd.DataFrame(
        {
            "scoring": ["cosine [a]", "2"],
            "EER %": ["1.23 [1.00, 2.00]", "-"],
            "minDCF": [float("nan"), 0.5],
            "trials": [8, 1500],
            "low": ["-1.00 [-2.00, 0.50]", "inf"],
        }
    )
    write_report(path, "A", [("B", [Table(frame, "C")])])
    reader = read(path)
    cells = [
        (tag, values["class"])
        for tag, values in reader.attributes
        if tag in ("th", "td")
    ]
    sides = ["text"] + ["number"] * 4
    assert cells == [
        *(("th", side) for side in sides),
        *(("td", side) for side in 2 * sides),
    ]
    # an interval stands apart, in a cell that does not wrap
    assert reader.of("span") == ["[1.00, 2.00]", "[-2.00, 0.50]"]
    assert reader.cells[0] == "cosine [a]"
    style = "".join(reader.of("style"))
    assert re.search(r"\.number \{[^}]*white-space: nowrap", style)


def test_wide_tables_become_cards_on_a_narrow_screen(tmp_path):
    path = tmp_path / "report.html"
    narrow = pd.DataFrame({"a": ["x"], "b": [1.0]})
    wide = pd.DataFrame([range(5)], columns=list("abcde"))
    intervals = pd.DataFrame({"a": ["x"], "b": ["1.0 [0.5, 1.5]"]})
    tables = [Table(frame, "C") for frame in (narrow, wide, intervals)]
    write_report(path, "A", [("B", tables)])
    reader = read(path)
    kinds = [v.get("class") for tag, v in reader.attributes if tag == "table"]
    assert kinds == [None, "cards", "cards"]


def test_results_table_leaves_notes_out():
    row = {"trials": "O", "scoring": "cosine", "EER %": 1.0}
    row |= {"scores": "x.txt", "EER threshold": 0.5}
    row |= {"notes": ["few"], "speakers": {"list": 4}}
    assert list(results_table([row])) == ["trials", "scoring", "EER %"]
