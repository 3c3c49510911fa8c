"""Broken and hostile lists of every kind: a sentence or a correct result."""

import hashlib
import os
import signal

import pandas as pd
import pytest
from speechbrain.dataio.encoder import CategoricalEncoder

from speechbrain_ext.dataio.file_lists import list_named
from speechbrain_ext.dataio.manifests import COLUMNS, read_manifest
from speechbrain_ext.dataio.score_files import read_scores
from speechbrain_ext.dataio.speaker_labels import speaker_classes
from speechbrain_ext.dataio.trials import read_enrolment, read_trials

LONG = b"x" * (2**24 + 9)  # longer than any line of a list
BINARY = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00"
UTF16 = "1 a/s/1 a/s/2\n".encode("utf-16")
HEAD = b"ID,wav,start,stop,spk_id\n"
TABLE = ",".join(COLUMNS).encode() + b"\n"
ROW = b"a/s/1,0.5,/d/1.wav,0,8000,a\n"
MAP = b"'a' => 0\n'b' => 1\n================\n'starting_index' => 0\n"
SPEAKERS = pd.Series(["a", "b"])
FOLDER, FIFO, LOOP, GONE = "a folder", "a FIFO", "a link loop", "nothing"


def map_of(path):
    """The numbers of two speakers by a label map."""
    return speaker_classes(SPEAKERS, CategoricalEncoder(), path).tolist()


def ids_of(path):
    """What a list names, with its speakers."""
    files = list_named(path, ["/d"])
    return list(zip(files.ID, files.spk_id, strict=True))


def trials_of(path):
    """The trials of a list."""
    return read_trials(path).to_numpy().tolist()


def rows_of(path):
    """The IDs of a manifest."""
    return read_manifest(path).ID.tolist()


# kind: (name of the file, what reads it)
KINDS = {
    "trials": ("veri.txt", trials_of),
    "list": ("list.txt", ids_of),
    "csv": ("list.csv", ids_of),
    "kaldi": ("data/wav.scp", lambda path: ids_of(path.parent)),
    "enrolment": ("models.txt", read_enrolment),
    "map": ("label_encoder.txt", map_of),
    "scores": ("scores.txt", read_scores),
    "manifest": ("train.csv", rows_of),
}
TRIAL = [["a/s/1", "a/s/2", True], ["a/s/1", "b/s/1", False]]
LISTED = [("x/1", "a"), ("x/2", "b")]

# (kind, content, what the sentence says, or the correct result)
CASES = [
    *((kind, FOLDER, "is a folder|Kaldi data folder") for kind in KINDS),
    *((kind, FIFO, "not a regular file") for kind in KINDS),
    *(
        (kind, LOOP, "not exist|not written by|cannot be read")
        for kind in KINDS
    ),
    *((kind, BINARY, "line 1 .*not text") for kind in KINDS),
    *((kind, LONG, "line 1 .*longer than") for kind in KINDS),
    *(
        (kind, GONE, "does not exist|wav.scp and")
        for kind in KINDS
        if kind != "map"
    ),
    ("trials", UTF16, "line 1 .*not text"),
    ("trials", b"1 a b\n0 a \xff\xfe\n", "line 2 .*not UTF-8"),
    ("trials", b"1 a b\n0 a b c d\n", "Line 2 .* must be `1|0 enrol test`"),
    ("trials", b"1 a b\n0 a my file.wav\n", "Line 2 .*white space"),
    ("trials", b"1,a,b\n0,a,c\n", "Line 1 .* must be"),
    ("trials", b"1 a b\n-1 a c\n", "Line 2 .* must be"),
    ("trials", b"1 a b\n0 a" + 5000 * b" c" + b"\n", "Line 2 .* must be"),
    ("trials", b"\xef\xbb\xbf1 a/s/1 a/s/2\r\n0\ta/s/1\tb/s/1\r\n", TRIAL),
    ("trials", b"1 ./a//s/1.wav a/s/2\r0 x/a/s/1 b/s/1", TRIAL),
    ("list", b"a x/1.wav\nb\n", "Line 2 .*`b` must be"),
    ("list", b"a x/1.wav\nb \xe9.wav\n", "line 2 .*not UTF-8"),
    ("list", b"\n \n", "names no file"),
    ("list", b"a x/1.wav\nb x/1.flac\n", "Two rows .*x/1.wav and .*x/1.flac"),
    ("list", b"a p/q/r/1.wav\nb o/q/r/1.wav\n", "ID q/r/1.* a CSV"),
    ("list", b"a => b x/1.wav\n", [("=> b x/1", "a")]),
    ("list", b"a\tx/1.wav\r\nb\tx/2.wav", LISTED),
    ("list", b"\xef\xbb\xbfa x/1.wav\nb ./x/2.wav\n", LISTED),
    ("list", b"a ../x/1.wav\n", [("../x/1", "a")]),
    ("csv", b"", "not a CSV table"),
    ("csv", HEAD, "names no file"),
    ("csv", b"ID;wav;spk_id\na;b;c\n", "lacks the columns .*ID;wav;spk_id"),
    ("csv", b"ID,wav,wav,spk_id\na,b,b,c\n", "column wav twice"),
    ("csv", HEAD + b"a,b,0,9,c,d\n", "not a CSV table .*line 2"),
    ("csv", HEAD + b"a,b,0,9\n", "line 2.*spk_id is empty"),
    ("csv", HEAD + b"a,b,0,9,c\n,b,0,9,c\n", "line 3.*ID is empty"),
    ("csv", HEAD + b'a,"b,0,9,c\n', "not a CSV table .*EOF inside string"),
    ("csv", HEAD + b'a,"b\nb",0,9,c\n', "line break"),
    ("csv", HEAD + b"a,b,0,9,c => d\n", "`c => d` .* ` => `"),
    ("csv", HEAD + b"a,b,0,9,c\na,d,0,9,c\n", "Two rows .* ID a:"),
    *(
        ("csv", HEAD + b"a,b,%s,-1,c\n" % value, "line 2 .*start is")
        for value in (
            *(b"1e20", b"-3", b"nan", b"inf", b"0x10", b'"16,000"', b"0.5"),
            *(b"1_000", b"99999999999999999999", b"", b"one", b"9" * 5000),
        )
    ),
    ("csv", HEAD + b"a,b,0,1e20,c\n", "line 2 .*stop is 1e20"),
    ("csv", HEAD + b"a,b,1e3,16000.0,c\n", [("a", "c")]),
    ("csv", b'\xef\xbb\xbfID,wav,spk_id\r\n"a,1","b,1",c\r\n', [("a,1", "c")]),
    ("csv", b"ID , wav, spk_id\n\na, b, c\n", [("a", "c")]),
    ("kaldi", b"a\n", "Line 1 .*wav.scp"),
    ("kaldi", b"a x.wav\na y.wav\n", "Line 2 .*wav.scp .* second time"),
    ("kaldi", b"c x.wav\n", "no speaker of c"),
    ("kaldi", b"a sph2pipe x |\n", "gives a command for a"),
    ("kaldi", b"a " + 5000 * b"y" + b" |\n", "gives a command for a"),
    ("kaldi", b"", "names no file"),
    ("kaldi", b"a x.wav\r\nb y.wav\r\n", [("a", "A"), ("b", "B")]),
    ("enrolment", b"", "names no model"),
    ("enrolment", b"m\n", "Line 1 .*`m` must be"),
    ("enrolment", b"m a\nm b\n", "Line 2 .*`m b` must be"),
    ("enrolment", b"m a a.wav\n", "Line 1 .* must be"),
    ("enrolment", b"m a \xff\n", "line 1 .*not UTF-8"),
    ("enrolment", b"\xef\xbb\xbfm a b\r\n", {"m": ["a", "b"]}),
    ("map", b"", "cut short"),
    ("map", MAP[:12], "cut short"),
    ("map", MAP[:22], "cut short"),
    ("map", MAP[:-18], "cut short"),
    ("map", MAP.replace(b"=> 1", b"=> 0"), "line 2.*number 1"),
    ("map", MAP.replace(b"=> 1", b"=> 7"), "line 2.*number 1"),
    ("map", MAP.replace(b"=> 1", b"=> -1"), "line 2:"),
    ("map", MAP.replace(b"'b'", b"'a'"), "line 2.*'a' .*second time"),
    ("map", MAP.replace(b"'b'", b"__import__('os')"), "line 2:"),
    ("map", MAP.replace(b"'b'", b"('b',)"), "line 2:"),
    (
        "map",
        MAP.replace(b"'a'", b"'b'", 1).replace(b"'b' => 1", b"'a' => 1"),
        "another order",
    ),
    ("map", MAP.replace(b"'b'", b"'c'"), "do not fit"),
    ("map", MAP, [[0], [1]]),
    ("scores", b"", "has no trials"),
    ("scores", b"a b 0.5\n", "line 1"),
    ("scores", b"a b inf target\n", "line 1"),
    ("scores", b"a b 1e999 target\n", "line 1"),
    ("scores", b"a b \xff target\n", "line 1 .*not UTF-8"),
    ("scores", b"a" * 5000 + b"\n", "line 1"),
    ("manifest", TABLE, "has no rows"),
    ("manifest", b"ID\n1\n", "lacks the columns duration"),
    ("manifest", TABLE + ROW + ROW, "ID a/s/1 twice"),
    ("manifest", TABLE + ROW.replace(b",a\n", b"\n"), "spk_id is empty"),
    *(
        ("manifest", TABLE + ROW.replace(b"8000", value), "stop is")
        for value in (b"1e20", b"nan", b"-inf", b"0x1F40", b"8000.5")
    ),
    ("manifest", TABLE + ROW.replace(b"0.5", b"-1"), "duration is -1"),
    ("manifest", TABLE + ROW.replace(b"0.5", b"1e400"), "duration is 1e400"),
    ("manifest", TABLE + ROW.replace(b",0,", b",-5,"), "start is -5|above"),
    ("manifest", b"\xef\xbb\xbf" + TABLE + b"\r\n" + ROW, ["a/s/1"]),
]


def put(path, content):
    """Makes what a case says."""
    path.parent.mkdir(exist_ok=True)
    if path.name == "wav.scp":
        (path.parent / "utt2spk").write_text("a A\nb B\n")
    if content == FOLDER:
        path.mkdir()
    elif content == FIFO:
        os.mkfifo(path)
    elif content == LOOP:
        path.symlink_to(path.name)
    elif content != GONE:
        path.write_bytes(content)


def state(folder):
    """Names and contents of all below a folder."""
    return {
        path: hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def no_hang():
    """Ends a test that waits for something, a FIFO's writer for instance."""

    def late(*_):
        raise AssertionError("the reader hangs")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def name_of(value):
    """A short name of a case, the same in every process."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()[:6]
    return None


@pytest.mark.parametrize(("kind", "content", "expected"), CASES, ids=name_of)
def test_a_list_gives_a_sentence_or_a_correct_result(
    no_hang, tmp_path, kind, content, expected
):
    name, read = KINDS[kind]
    path = tmp_path / name
    put(path, content)
    before = state(tmp_path)
    if isinstance(expected, str):
        # raised where a sentence is printed: scripts catch no other error
        with pytest.raises((ValueError, OSError), match=expected) as caught:
            read(path)
        said = str(caught.value)
        assert str(path) in said or str(path.parent) in said
        assert len(said.replace(str(path), "")) < 700
        assert "\n" not in said
    else:
        assert read(path) == expected
    if content != GONE:
        assert state(tmp_path) == before


def test_there_are_fifty_cases():
    assert len(CASES) >= 50
