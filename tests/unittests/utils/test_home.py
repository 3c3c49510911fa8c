"""``~`` after the ``=`` of an option, which shells do not expand."""

import sys

import pytest

from speechbrain_ext.utils.home import expand_home


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_only_the_start_of_a_value_is_expanded(home):
    words = ["~/a", "--out=~/x=~", "--name=b~", "-o=~", "x=~/y", "--empty="]
    expected = ["~/a", f"--out={home}/x=~", *words[2:]]
    assert expand_home(words) == expected
    assert expand_home([home]) == [str(home)]


def test_no_words_are_those_of_the_process(home, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "--out=~"])
    assert expand_home() == [f"--out={home}"]
