"""Files whose names bear a fingerprint."""

import pytest

from speechbrain_ext.dataio.stamped_files import StampedFiles

NAMES = ["a.txt", "b.txt", "done.json"]


def make(folder, options, names):
    """Writes some files, the mark and the links."""
    files = StampedFiles(folder, options, NAMES)
    for name in names:
        with open(files.path(name), "w") as stream:
            stream.write(f"{name} of {options}")
    files.mark_done("done.json", {"files": len(names)})
    files.link([*names, "done.json"])
    return files


def test_another_setting_never_uses_the_files(tmp_path):
    make(tmp_path, {"seed": 1}, ["a.txt", "b.txt"])
    assert (tmp_path / "b.txt").read_text() == "b.txt of {'seed': 1}"
    other = StampedFiles(tmp_path, {"seed": 2}, NAMES)
    assert not other.are_done(["a.txt"], "done.json")
    make(tmp_path, {"seed": 2}, ["a.txt"])
    assert (tmp_path / "a.txt").read_text() == "a.txt of {'seed': 2}"
    assert not (tmp_path / "b.txt").exists()  # these options make none
    first = StampedFiles(tmp_path, {"seed": 1}, NAMES)
    assert first.are_done(["a.txt", "b.txt"], "done.json")
    first.link(NAMES)
    assert (tmp_path / "b.txt").read_text() == "b.txt of {'seed': 1}"


@pytest.mark.parametrize("flaw", ["no file", "no link", "no mark", "cut mark"])
def test_what_is_not_whole_is_not_done(flaw, tmp_path):
    files = make(tmp_path, {"seed": 1}, ["a.txt"])
    assert files.are_done(["a.txt"], "done.json")
    mark = (tmp_path / "done.json").resolve()
    if flaw == "no file":
        (tmp_path / "a.txt").resolve().unlink()
    elif flaw == "no link":
        (tmp_path / "done.json").unlink()
    elif flaw == "no mark":
        mark.unlink()
    else:
        mark.write_text(mark.read_text()[:-5])
    assert not files.are_done(["a.txt"], "done.json")
