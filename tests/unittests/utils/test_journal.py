"""The journal knows what this project wrote, and nothing else."""

import pytest
from test_files import put

from speechbrain_ext.utils import journal
from speechbrain_ext.utils.files import atomic_write
from speechbrain_ext.utils.journal import JOURNAL, is_own


def test_a_torn_line_of_the_journal_costs_nothing_else(tmp_path):
    own = tmp_path / "a.txt"
    put(own, "good")
    with open(own.parent / JOURNAL, "a") as stream:
        stream.write('{"name": "b.t')
    put(own.parent / "b.txt", "1")
    (own.parent / "c.txt").write_text("a thesis")
    with open(own.parent / JOURNAL, "a") as stream:
        stream.write('17\n["c.txt"]\n{"name": "c.txt"}\n\xff\n')
    assert is_own(own) and is_own(own.parent / "b.txt")
    assert not is_own(own.parent / "c.txt")


def test_a_changed_line_makes_nobody_elses_file_ours(tmp_path):
    put(tmp_path / "a.txt", "one")
    (tmp_path / "b.txt").write_text("one")  # the same under another name
    assert not is_own(tmp_path / "b.txt")


@pytest.mark.parametrize("size", [0, 100])
def test_of_a_large_file_both_ends_count(size, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SAMPLED", 2**21)
    path = tmp_path / "large"
    with atomic_write(path, "wb") as stream:
        stream.write(b"a" * (2**22 + size))
    assert is_own(path)
    for place in (0, 2**22 + size - 1):
        with open(path, "rb+") as stream:
            stream.seek(place)
            stream.write(b"b")
        assert not is_own(path)
        with open(path, "rb+") as stream:
            stream.seek(place)
            stream.write(b"a")
    assert is_own(path)
