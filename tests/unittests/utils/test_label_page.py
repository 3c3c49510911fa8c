"""The page to listen to suspicious labels."""

import os
import urllib.parse
from html.parser import HTMLParser

import pandas as pd
import pytest

from speechbrain_ext.utils.label_page import write_label_page

HOSTILE = "\"><script>alert(1)</script>{{ 7 * 7 }}&amp;'Z\u00fcrich"


class Reader(HTMLParser):
    """Collects the elements and sees that tags are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.elements = [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "input", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag):
        return [found for name, found in self.elements if name == tag]


@pytest.fixture
def page(tmp_path):
    """Writes a page and reads it as a browser would."""

    def writing(rows, **options):
        columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
        table = pd.DataFrame(rows, columns=[*columns, "margin", "best_other"])
        path = tmp_path / "out" / "labels.html"
        path.parent.mkdir(exist_ok=True)
        write_label_page(path, table, ["margin"], "Labels", "About.", **options)
        text, reader = path.read_text("utf-8"), Reader()
        reader.feed(text)
        assert reader.open == []
        return text, reader

    return writing


def row(name="a/s/1", wav="/data/a.wav", start=0, stop=32000, label="a"):
    """An utterance at 16 kHz."""
    seconds = (stop - start) / 16000
    return [name, seconds, str(wav), start, stop, label, -0.25, "b"]


def test_audio_is_found_from_the_page(page, tmp_path):
    wav = tmp_path / "a b%20#?" / "z\u00fc.wav"
    text, reader = page([row(wav=wav), row("b/s/1")])
    source = urllib.parse.urlsplit(reader.of("audio")[0]["src"])
    assert source.fragment == source.query == source.scheme == ""
    path = os.path.join(tmp_path, "out", urllib.parse.unquote(source.path))
    assert os.path.normpath(path) == str(wav)
    assert ">-0.250<" in text and "http" not in text
    assert "b/<wbr>s/<wbr>1<" in text  # lines break after a folder


def test_pieces_of_files_have_their_times(page):
    _, reader = page([row(start=16000, stop=40000), row("b", "/data/b.wav")])
    first, second = (found["src"] for found in reader.of("audio"))
    assert first.endswith("a.wav#t=1.000,2.500") and "#" not in second
    _, reader = page([row("a"), row("b", stop=8000)])
    assert reader.of("audio")[1]["src"].endswith("#t=0.000,0.500")


def test_names_are_escaped(page):
    text, reader = page([row(HOSTILE, f"/d/{HOSTILE}.wav", label=HOSTILE)])
    (found,) = [one for one in reader.of("tr") if "data-id" in one]
    assert found["data-id"] == found["data-label"] == HOSTILE
    assert len(reader.of("script")) == 1 and "{{" in text
    src = reader.of("audio")[0]["src"]
    assert urllib.parse.unquote(src).endswith(f"/d/{HOSTILE}.wav")


def test_names_that_are_not_utf8_are_written(page):
    text, _ = page([row("a\udcff", "/data/a\udcff.wav")])
    assert "a%FF.wav" in text and r"a\udcff" in text


def test_marks_are_shown(page):
    _, reader = page(
        [row("a"), row("b"), row("c")], marks={"b": "wrong", "c": "right"}
    )
    found = [
        (x["name"], x["value"]) for x in reader.of("input") if "checked" in x
    ]
    assert found == [("mark1", "wrong"), ("mark2", "right")]
    assert len({x["name"] for x in reader.of("input")}) == 3
