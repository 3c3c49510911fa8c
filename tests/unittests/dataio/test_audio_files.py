"""Audio files that a user names: folders, lists and tables."""

import pytest

from speechbrain_ext.dataio.audio_files import list_audio


@pytest.fixture
def tree(tmp_path):
    """A folder with audio files, other files and a circle of links."""
    folder = tmp_path / "audio"
    for name in ("b/1.wav", "a/2.FLAC", "a/.hidden.wav", "a/note.txt", "c.mp3"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "a" / "up").symlink_to(folder)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "3.wav").touch()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    return folder


def test_a_folder_gives_its_files_at_any_depth(tree):
    found = list_audio([tree])
    assert found.ID.tolist() == ["a/2.FLAC", "b/1.wav", "c.mp3", "linked/3.wav"]
    assert found.wav.tolist() == [f"{tree}/{name}" for name in found.ID]


def test_a_folder_that_links_lead_to_is_read_once(tree, tmp_path):
    (tree / "a" / "sibling").symlink_to(tree / "b")
    (tree / "A").symlink_to(tree / "b")
    (tree / "also_linked").symlink_to(tmp_path / "elsewhere")
    (tree / "b" / "sibling").symlink_to(tree / "a")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)
    found = list_audio([tree])
    names = ["a/2.FLAC", "also_linked/3.wav", "b/1.wav", "c.mp3"]
    assert found.ID.tolist() == names


def test_lists_and_tables_give_their_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("a/with blank.wav\n\n/d/b.wav\n")
    found = list_audio(["list.txt"])
    assert found.ID.tolist() == ["a/with blank.wav", "/d/b.wav"]
    assert found.wav.tolist() == [f"{tmp_path}/a/with blank.wav", "/d/b.wav"]
    assert list_audio(["list.txt"], "/r").wav[0] == "/r/a/with blank.wav"
    (tmp_path / "wav.scp").write_text("u-1 x/1.wav\nu-2 /d/2.wav\n")
    found = list_audio(["wav.scp"], "/r")
    assert found.ID.tolist() == ["u-1", "u-2"]
    assert found.wav.tolist() == ["/r/x/1.wav", "/d/2.wav"]
    (tmp_path / "t.csv").write_text(
        "ID,wav,start,stop\np1,$data_root/1.wav,0,8000\np2,/d/1.wav,8000,-1\n"
    )
    (tmp_path / "one.wav").touch()
    found = list_audio(["t.csv", "one.wav"], "/r")
    assert found.wav.tolist() == [
        "/r/1.wav",
        "/d/1.wav",
        f"{tmp_path}/one.wav",
    ]
    assert found.start.tolist() == [0, 8000, 0]
    assert found.stop.tolist() == [8000, -1, -1]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("empty.txt", "", "names? no|no audio file"),
        ("twice.txt", "a.wav\na.wav\n", "have the ID a.wav"),
        ("wav.scp", "a sph2pipe x |\n", "wav.scp gives a command for a"),
        ("wav.scp", "a\n", "Line 1 of .*wav.scp is broken"),
        ("t.csv", "ID,path\na,b\n", "wav"),
        ("t.csv", "ID,wav,start,stop\na,b,x,1\n", "start is x"),
        ("t.csv", "ID,wav\na,\n", "wav is empty"),
        ("list.txt", b"\xff\xfe\x00", "list.txt"),
    ],
)
def test_a_list_that_is_not_valid_is_named(name, text, words, tmp_path):
    text = text if isinstance(text, bytes) else text.encode()
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=words):
        list_audio([tmp_path / name])


def test_a_source_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no.txt does not exist"):
        list_audio([tmp_path / "no.txt"])
    with pytest.raises(ValueError, match="has no audio file"):
        list_audio([tmp_path])
    with pytest.raises(ValueError, match="/dev/null is a device"):
        list_audio(["/dev/null"])
