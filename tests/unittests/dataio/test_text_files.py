"""Lists that users name: found in two places, read, quoted in short."""

import os
import stat

import pandas as pd
import pytest

from speechbrain_ext.dataio import text_files
from speechbrain_ext.dataio.text_files import (
    find_file,
    parse_numbers,
    read_table,
    read_text,
    shorten,
)


def test_a_message_shows_two_hundred_characters_at_most():
    assert len(shorten("x" * 10**6)) == 200
    assert len(shorten("\x00" * 10**6)) == 200
    assert shorten("a\n b\t c") == "a b c"
    assert shorten("\x1b[31mred") == "\\x1b[31mred"
    assert shorten("id1/é 日本") == "id1/é 日本"


def test_a_relative_name_is_looked_for_here_and_in_the_data(
    tmp_path, monkeypatch
):
    here, data = tmp_path / "here", tmp_path / "data"
    for folder in (here, data):
        folder.mkdir()
    monkeypatch.chdir(here)
    (data / "veri.txt").write_text("1 a b\n")
    what = "The trial list"
    assert find_file("veri.txt", [data], what) == str(data / "veri.txt")
    (here / "veri.txt").write_text("1 a b\n")  # a copy: either will do
    assert find_file("veri.txt", [data], what) == str(here / "veri.txt")
    (here / "veri.txt").write_text("0 a b\n")
    both = f"{here / 'veri.txt'} or {data / 'veri.txt'}, which differ"
    with pytest.raises(ValueError, match=both):
        find_file("veri.txt", [data], what)
    with pytest.raises(ValueError, match="which differ"):
        find_file("veri.txt", ["../data"], what)
    assert find_file(data / "veri.txt", [here], what) == str(data / "veri.txt")
    with pytest.raises(FileNotFoundError, match="no.txt does not exist .*here"):
        find_file("no.txt", [data], what)


def test_a_folder_is_found_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kaldi").mkdir()
    found = find_file("kaldi", [tmp_path / "data"], "`file_list`")
    assert found == str(tmp_path / "kaldi")


def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "list.txt"
    path.touch()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(text_files, "open", refuse, raising=False)
    with pytest.raises(OSError, match="list.txt cannot be read .Permission"):
        read_text(path, "trial list")


def test_a_sparse_file_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "list.txt"
    path.touch()
    os.truncate(path, 2**34)
    assert stat.S_ISREG(path.stat().st_mode)
    with pytest.raises(ValueError, match="zero byte in line 1"):
        read_text(path, "trial list")


def test_line_numbers_count_every_kind_of_line_end(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"a\r\nb\rc\n\xff")
    with pytest.raises(ValueError, match="line 4 that is not UTF-8"):
        read_text(path, "list")


def test_a_table_keeps_the_numbers_of_its_lines(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('ID,wav\n\na,"x, y"\n\nb\n')
    table = read_table(path, "table", ["ID"])
    assert table.index.tolist() == [3, 5]
    assert table.wav.tolist() == ["x, y", ""]


def test_white_space_makes_no_other_speaker(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        'ID ,wav,spk_id\na,a .wav,s\n b ,b.wav ,s \nc,c.wav,"s\t"\n'
    )
    table = read_table(path, "table", ["ID"])
    assert table.ID.tolist() == ["a", "b", "c"]
    assert table.spk_id.tolist() == ["s", "s", "s"]
    assert table.wav.tolist() == ["a .wav", "b.wav ", "c.wav"]  # as the disk


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("5", 5), ("+5", 5), (" 5 ", 5), ("5.0", 5), ("1e3", 1000)),
        *(("-1", -1), ("0x10", None), ("1_000", None), ("16,000", None)),
        *(("1e20", None), ("9" * 400, None), ("nan", None), ("inf", None)),
        *(("", None), ("True", None), ("0.5", None), ("1e400", None)),
    ],
)
def test_only_numbers_that_are_exact_count(text, number):
    (found,) = parse_numbers(pd.Series([text]), whole=True)
    assert found == number or (number is None and found != found)
