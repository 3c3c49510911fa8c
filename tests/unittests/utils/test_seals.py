"""Folders whose files are known by their checksums."""

import json
import os

import pytest

from speechbrain_ext.utils.seals import SUMS, seal, seal_flaw


@pytest.fixture
def sealed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"whole {name}")
    seal(tmp_path)
    return tmp_path


def test_a_whole_folder_has_no_flaw(sealed):
    assert seal_flaw(sealed) is None
    (sealed / SUMS).unlink()
    assert seal_flaw(sealed) is None  # nothing is known


SUMS_THAT_ARE_NONE = ["", "[1]", "3", '{"a": 3}', '{"a": [1, 2, 3]}', "\xff"]


@pytest.mark.parametrize("text", SUMS_THAT_ARE_NONE)
def test_sums_that_cannot_be_read(text, sealed):
    (sealed / SUMS).write_bytes(text.encode("latin-1"))
    assert seal_flaw(sealed) == "sums.json is truncated"


def test_every_change_is_found(sealed):
    (sealed / "c").touch()
    assert seal_flaw(sealed) == "sums.json does not list c"
    (sealed / "c").unlink()
    os.replace(sealed / "a", sealed.parent / "away")
    assert seal_flaw(sealed) == "a is missing"
    (sealed / "a").symlink_to(sealed.parent / "away")
    assert seal_flaw(sealed) == "a is not a regular file"
    (sealed / "a").unlink()
    os.mkfifo(sealed / "a")  # which would wait for ever
    assert seal_flaw(sealed) == "a is not a regular file"
    (sealed / "a").unlink()
    (sealed / "a").write_text("Whole a")
    assert seal_flaw(sealed) == "a has another checksum"


def test_hidden_files_of_file_managers_do_not_count(sealed):
    (sealed / ".DS_Store").write_text("theirs")
    (sealed / ".nfs0001").symlink_to("a")
    assert seal_flaw(sealed) is None
    (sealed / SUMS).unlink()
    seal(sealed)
    (sealed / ".DS_Store").unlink()
    assert seal_flaw(sealed) is None


def test_no_file_of_another_folder_is_named(sealed):
    sums = json.loads((sealed / SUMS).read_text())
    (sealed / SUMS).write_text(json.dumps(sums | {"../mine": [0, 0]}))
    assert seal_flaw(sealed) == "../mine is missing"


def test_given_names_are_checked_alone(sealed):
    (sealed / "more").write_text("not listed")
    (sealed / "a").write_text("another")
    names = [name for name in ("b",) if (sealed / name).exists()]
    assert seal_flaw(sealed, names) is None
    assert seal_flaw(sealed, ["more"]) == "sums.json does not list more"
    assert "a has" in seal_flaw(sealed, ["a"])
