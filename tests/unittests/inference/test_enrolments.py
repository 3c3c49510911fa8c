"""Enrolments on disk: kept through kills, shared, bound to one encoder."""

import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest

from speechbrain_ext.inference.enrolments import Enrolments, require_enrolled

FORK = multiprocessing.get_context("fork")


def row(number):
    """An embedding."""
    return np.full(4, number + 1, dtype=np.float32)


@pytest.fixture
def path(tmp_path):
    """A file with two speakers."""
    path = tmp_path / "enrolled.npz"
    Enrolments("me", path).add({"ada": row(0), "björn": row(1)})
    return path


def test_enrolments_are_read_again(path):
    found = Enrolments("me", str(path)).read()
    assert list(found) == ["ada", "björn"]
    np.testing.assert_array_equal(found["björn"], row(1))
    assert found["ada"].dtype == np.float32
    Enrolments("me", path).remove("ada")
    Enrolments("me", path).remove("björn")
    assert Enrolments("me", path).read() == {}


def test_enrolments_without_a_file_stay_in_memory():
    enrolments = Enrolments(None)
    enrolments.add({"ada": row(0)})
    enrolments.remove("ada")
    assert enrolments.read() == {}
    assert Enrolments(None).read() == {}


def test_changes_of_another_process_are_seen(path):
    one, other = Enrolments("me", path), Enrolments("me", path)
    one.add({"cleo": row(2)})
    assert "cleo" in other.read()
    other.add({"dan": row(3)})
    assert list(one.read()) == ["ada", "björn", "cleo", "dan"]
    path.unlink()
    assert one.read() == {}


def test_a_copied_file_can_be_changed(path, tmp_path):
    there = tmp_path / "other" / "folder"
    there.mkdir(parents=True)
    shutil.copy(path, there / "mine.npz")  # without the journal
    Enrolments("me", there / "mine.npz").add({"cleo": row(2)})
    assert len(Enrolments("me", there / "mine.npz").read()) == 3


def test_the_same_name_twice_is_rejected(path):
    enrolments = Enrolments("me", path)
    before = path.read_bytes()
    for speakers in ({"ada": row(5)}, {"new": row(5), "ada": row(5)}):
        with pytest.raises(ValueError, match="'ada' is enrolled already"):
            enrolments.add(speakers)
    assert path.read_bytes() == before
    enrolments.add({"ada": row(5)}, replace=True)
    np.testing.assert_array_equal(enrolments.embedding("ada"), row(5))
    assert len(enrolments.read()) == 2


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0", None, 7])
def test_names_that_cannot_be_shown_are_rejected(name, path):
    with pytest.raises(ValueError, match="A name must be a string"):
        Enrolments("me", path).add({name: row(0)})


@pytest.mark.parametrize(
    "bad", [np.zeros(4), np.full(4, np.nan), np.ones(5), np.ones((1, 4))]
)
def test_embeddings_that_cannot_be_compared_are_rejected(bad, path):
    with pytest.raises(ValueError, match=r"'cleo' must have shape \[4\]"):
        Enrolments("me", path).add({"cleo": bad})


def test_unknown_names_are_rejected(path):
    enrolments = Enrolments("me", path)
    for call in (enrolments.remove, enrolments.embedding):
        with pytest.raises(ValueError, match="'eve' is not enrolled in .*npz"):
            call("eve")
    with pytest.raises(ValueError, match="enrolled are: none"):
        require_enrolled("eve", {})
    with pytest.raises(ValueError, match="and 5 more"):
        require_enrolled("eve", [str(i) for i in range(25)])


def test_another_encoder_is_rejected(path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="of another encoder.*me.*you"):
        Enrolments("you", path)
    # also where the file is exchanged under an open one
    late = Enrolments("you", path.with_name("late.npz"))
    shutil.copy(path, late.path)
    with pytest.raises(ValueError, match="late.npz has the enrolments of ano"):
        late.add({"cleo": row(2)})
    assert late.path.read_bytes() == path.read_bytes() == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: b"a thesis",
        lambda whole: whole.replace(row(0).tobytes(), row(9).tobytes()),
    ],
    ids=["truncated", "empty", "text", "changed"],
)
def test_damaged_files_are_named_and_left(spoil, path):
    path.write_bytes(spoil(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="enrolled.npz is damaged, or not"):
        Enrolments("me", path)
    assert path.read_bytes() == before


def test_files_of_other_arrays_are_rejected(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, names=np.array(["a"]), embeddings=np.ones((1, 4)))
    with pytest.raises(ValueError, match="not a file of enrolments"):
        Enrolments("me", path)
    np.savez(path, names=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="not a file of enrolments"):
        Enrolments("me", path)
    with pytest.raises(OSError, match="directory"):
        Enrolments("me", tmp_path)


def killed_at(path, name, at):
    """Adds a speaker; kills this process at a call that changes the disk."""
    calls = []

    def counted(call):
        def counting(*arguments, **options):
            calls.append(call)
            if len(calls) > at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counting

    for call in ("replace", "fsync", "unlink", "write", "open"):
        setattr(os, call, counted(getattr(os, call)))
    Enrolments("me", path).add({name: row(7)})


def test_killed_while_saving_nothing_is_lost(path):
    finished = 0
    for at in range(40):
        name = f"late {at}"
        process = FORK.Process(target=killed_at, args=(path, name, at))
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        found = Enrolments("me", path).read()
        assert {"ada", "björn"} <= set(found)
        if name in found:  # the rename was reached
            np.testing.assert_array_equal(found.pop(name), row(7))
            Enrolments("me", path).remove(name)
        if process.exitcode == 0:
            finished += 1
            break
    assert finished and at > 3
    # temporary files of killed processes are gone
    assert not list(path.parent.glob(".speechbrain_ext-*"))


def many(path, first):
    """Adds ten speakers, one by one."""
    enrolments = Enrolments("me", path)
    for number in range(first, first + 10):
        enrolments.add({str(number): row(number)})


def test_several_processes_lose_nothing(path):
    started = [FORK.Process(target=many, args=(path, n)) for n in (0, 10, 20)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        assert process.exitcode == 0
    found = Enrolments("me", path).read()
    assert set(found) == {"ada", "björn", *map(str, range(30))}
    for number in range(30):
        np.testing.assert_array_equal(found[str(number)], row(number))


def test_a_link_stays_a_link_to_the_shared_file(path, tmp_path):
    (tmp_path / "mine").mkdir()
    link = tmp_path / "mine" / "link.npz"
    link.symlink_to(path)
    Enrolments("me", link).add({"carl": row(2)})
    assert link.is_symlink()
    assert list(Enrolments("me", path).read()) == ["ada", "björn", "carl"]
