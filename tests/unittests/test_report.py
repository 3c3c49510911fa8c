"""The HTML report."""

import pathlib
from html.parser import HTMLParser

import pandas as pd
import pytest

from speechbrain_ext.utils.plots import histogram_plot
from speechbrain_ext.utils.report import write_report


class Reader(HTMLParser):
    """Collects cells and pictures, and sees that tags are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.cells, self.pictures = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        elif tag not in ("meta", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


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
