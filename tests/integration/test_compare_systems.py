"""compare_systems.py: what it prints, and what it says of bad input."""

import importlib
import json
import re
import sys

import numpy as np
import pytest

from speechbrain_ext.dataio.score_files import write_scores
from speechbrain_ext.utils.files import atomic_write

NAMES = [
    (f"{enrol}/1", f"{test}/2") for enrol in "abcdefgh" for test in "abcdefgh"
]
TARGETS = [enrol[0] == test[0] for enrol, test in NAMES]


@pytest.fixture
def script(recipe_folder):
    """The script as a module."""
    yield importlib.import_module("compare_systems")
    sys.modules.pop("compare_systems", None)


@pytest.fixture
def files(tmp_path):
    """Score files of a good and of a bad system, in different orders."""
    rng = np.random.default_rng(0)
    found = []
    for name, distance in (("good", 8.0), ("bad", 0.5)):
        scores = distance * np.array(TARGETS) + rng.normal(size=len(NAMES))
        order = rng.permutation(len(NAMES))
        path = tmp_path / name / "scores.txt"
        write_scores(
            *(path, *zip(*[NAMES[i] for i in order], strict=True)),
            *(scores[order], np.array(TARGETS)[order]),
        )
        found.append(path)
    return found


def failure(script, capsys, *arguments):
    """What the script says when it gives up."""
    with pytest.raises(SystemExit) as error:
        script.main([*map(str, arguments), "--replicates=20"])
    said = str(error.value.code)
    if error.value.code == 2:  # of argparse
        said = capsys.readouterr().err
    else:
        assert said.startswith("error: ")
        assert capsys.readouterr().out == ""
    assert "Traceback" not in said
    return said


def test_differences_are_told_in_words(script, files, capsys):
    script.main([*map(str, files), "--replicates=50"])
    said = capsys.readouterr().out
    assert "64 trials (8 target) of 8 speakers" in said
    assert "in brackets 95 % intervals, from 50 draws of the speakers" in said
    assert "EER %: the first system is better, by more than chance" in said
    script.main([*map(str, files[::-1]), "--replicates=50"])
    said = capsys.readouterr().out
    assert "EER %: the second system is better, by more than chance" in said


def test_a_copy_does_not_differ(script, files, tmp_path, capsys):
    copy = tmp_path / "copy.txt"
    copy.write_bytes(files[0].read_bytes())
    script.main([str(files[0]), str(copy), "--replicates=20", "--calibrated"])
    said = capsys.readouterr().out
    assert "Cllr: both systems have the same value in every draw" in said


def test_plot_has_both_systems(script, files, tmp_path, monkeypatch):
    drawn = []
    original = script.det_plot

    def kept(*arguments, **options):
        drawn.append(original(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(script, "det_plot", kept)
    picture, written = tmp_path / "det.png", tmp_path / "found.json"
    monkeypatch.setenv("HOME", str(tmp_path))
    options = ["--replicates=20", f"--plot={picture}", "--json=~/found.json"]
    script.main([*map(str, files), *options])
    assert picture.read_bytes()[1:4] == b"PNG"
    assert set(json.loads(written.read_text())) == {
        *("EER %", "minDCF 0.01", "minDCF 0.05")
    }
    (legend,) = drawn[0].legends
    texts = [text.get_text().split(":")[0] for text in legend.get_texts()]
    # one stem: the folders tell them apart
    assert texts[:2] == ["good/scores.txt", "bad/scores.txt"]
    assert texts[2:] == ["EER", "minDCF 0.01", "minDCF 0.05"]
    gids = [line.get_gid() for line in drawn[0].axes[0].get_lines()]
    assert gids.count("minDCF 0.01") == gids.count("minDCF 0.05") == 2
    # again, over what it wrote itself
    script.main([*map(str, files), *options])


def lines_without(files, number):
    return "".join(files[0].read_text().splitlines(keepends=True)[number:])


BAD_FILES = {
    "empty": (lambda files: "", "is empty"),
    "blank": (lambda files: "\n \n", "is empty"),
    "Kaldi": (lambda files: "a/1 a/2 0.5\n", "which do not mark target trials"),
    "two words": (lambda files: "a b\n", "must be `enrol test score"),
    "five words": (lambda files: "a b 1 target 3\n", "must be `enrol test"),
    "NaN": (lambda files: "a/1 a/2 nan target\n", "a finite score, got"),
    "infinite": (lambda files: "a/1 a/2 inf target\n", "a finite score, got"),
    "no number": (lambda files: "a/1 a/2 x target\n", "a finite score, got"),
    "label": (lambda files: "a/1 a/2 1 Target\n", "must be `enrol test"),
    "one class": (lambda files: "a/1 a/2 1 target\n", "all of its 1 are tar"),
    "other class": (lambda files: "a b 1 nontarget\n", "are nontarget trials"),
    "bytes": (lambda files: b"\xff\xfe\x00\x01 b 1 target", "not a text file"),
    "short": (lambda files: lines_without(files, 3), "lacks 3 trials"),
    "another list": (
        lambda files: "x/1 x/2 1 target\nx/1 y/1 0 nontarget\n",
        "trials of the other file, among them",
    ),
    "swapped labels": (
        lambda files: (
            files[0]
            .read_text()
            .replace(" nontarget", " X")
            .replace(" target", " nontarget")
            .replace(" X", " target")
        ),
        "64 trials have different labels",
    ),
    "one with other labels": (
        lambda files: files[0].read_text().replace(" target", " nontarget", 1),
        "1 trials have different labels",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("place", [0, 1])
def test_bad_score_files_are_told(script, files, tmp_path, capsys, kind, place):
    make, said = BAD_FILES[kind]
    bad = make(files)
    path = tmp_path / "broken.txt"
    path.write_bytes(bad if isinstance(bad, bytes) else bad.encode())
    given = [path, files[0]][:: 1 if place == 0 else -1]
    picture = tmp_path / "det.png"
    found = failure(script, capsys, *given, f"--plot={picture}")
    assert said in found
    assert str(path if kind != "another list" else given[1]) in found
    assert not picture.exists()


def test_files_that_are_not_there_are_told(script, files, tmp_path, capsys):
    gone = tmp_path / "gone.txt"
    said = failure(script, capsys, files[0], gone)
    assert said == (
        f"error: `second` must be a file, but {gone} is not; check its path."
    )
    assert "is not; check" in failure(script, capsys, tmp_path, files[0])
    said = failure(script, capsys, *files, f"--manifest={gone}")
    assert "`manifest` must be a file" in said
    link = tmp_path / "link.txt"
    link.symlink_to(files[0])
    assert "are the same file" in failure(script, capsys, files[0], link)
    assert "are the same file" in failure(script, capsys, files[0], files[0])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--p_targets=0", "(0, 1), got 0"),
        ("--p_targets=5", "(0, 1), got 5"),
        ("--p_targets=nan", "(0, 1), got nan"),
        ("--p_targets=x", "invalid float value"),
        ("--confidence=95", "(0, 1), got 95"),
        ("--confidence=0", "(0, 1), got 0"),
        ("--replicates=1", "got 1"),
        ("--replicates=-3", "got -3"),
        ("--replicates=1000000000000", "got 1000000000000"),
        ("--seed=-1", "got -1"),
        ("--plot=nowhere/det.png", "folder nowhere does not exist"),
        ("--json=nowhere/found.json", "folder nowhere does not exist"),
        ("--plot=det.xyz", "must end with .png"),
        ("--unknown", "unrecognized arguments"),
    ],
)
def test_bad_options_are_told(script, files, capsys, option, said, monkeypatch):
    with pytest.raises(SystemExit) as error:
        script.main([*map(str, files), option])
    found = str(error.value.code)
    if error.value.code == 2:
        found = capsys.readouterr().err
    assert said in found


def test_files_of_the_user_stay(script, files, tmp_path, capsys):
    thesis = tmp_path / "thesis.png"
    thesis.write_text("a thesis")
    (tmp_path / "thesis.json").write_text("a thesis")
    for option in (f"--plot={thesis}", f"--json={tmp_path}/thesis.json"):
        said = failure(script, capsys, *files, option)
        assert "was not written by this program" in said
    before = files[1].read_bytes()
    said = failure(script, capsys, *files, f"--json={files[1]}")
    assert "would be replaced" in said
    assert files[1].read_bytes() == before
    assert thesis.read_text() == "a thesis"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("thesis.png", "thesis.json", "good", "bad")
    }


def test_manifest_names_the_speakers(script, files, tmp_path, capsys):
    manifest = tmp_path / "test.csv"
    header = "ID,duration,wav,start,stop,spk_id\n"
    rows = [
        f"{name}/{i},1.0,x.wav,0,16000,{name}"
        for name in "abcdefg"
        for i in "12"
    ]
    manifest.write_text(header + "\n".join(rows) + "\n")
    said = failure(script, capsys, *files, f"--manifest={manifest}")
    assert "lacks 2 utterances of the trials: h/1, h/2" in said
    rows += [f"h/{i},1.0,x.wav,0,16000,h" for i in "12"]
    manifest.write_text(header + "\n".join(rows) + "\n")
    options = ["--replicates=20", f"--manifest={manifest}"]
    script.main([*map(str, files), *options])
    assert "of 8 speakers" in capsys.readouterr().out


def test_a_file_is_not_written_twice_nor_over_verifications(
    script, files, tmp_path, capsys
):
    both = [f"--{name}={tmp_path / 'c.png'}" for name in ("json", "plot")]
    assert "name two files" in failure(script, capsys, *files, *both)
    for name in ("results.json", "calibration.json"):
        said = failure(script, capsys, *files, f"--json={tmp_path / name}")
        assert "the name of verification's results" in said
    said = failure(script, capsys, *files, f"--json={tmp_path / 'c.csv'}")
    assert "must end with .json" in said
    # a file of this project is not replaced either, if it is read
    manifest = tmp_path / "test.json"
    with atomic_write(manifest) as stream:
        stream.write("ID,duration,wav,start,stop,spk_id\n")
    said = failure(
        script, capsys, *files, f"--manifest={manifest}", f"--json={manifest}"
    )
    assert "one of the files to read" in said


def test_models_have_the_speaker_of_their_first_utterance(
    script, files, tmp_path, capsys
):
    manifest = tmp_path / "test.csv"
    names = [f"{name}/{i}" for name in "abcdefgh" for i in "12"]
    manifest.write_text(
        "ID,duration,wav,start,stop,spk_id\n"
        + "".join(f"{n},1.0,x.wav,0,16000,{n[0]}\n" for n in names)
    )
    models = tmp_path / "models.txt"
    models.write_text("".join(f"m{n[0]}{n[2]} {n}\n" for n in names))
    for path in files:  # the enrolments are models now
        path.write_text(re.sub(r"(?m)^(\w)/(\d) ", r"m\1\2 ", path.read_text()))
    given = [f"--manifest={manifest}", f"--enrolment={models}"]
    script.main([*map(str, files), "--replicates=20", *given])
    assert "of 8 speakers" in capsys.readouterr().out
    said = failure(script, capsys, *files, given[0])
    assert "and with --enrolment the list of the models" in said
    said = failure(script, capsys, *files, given[1])
    assert "`--enrolment` needs `--manifest`" in said
    said = failure(script, capsys, *files)
    assert "test.csv names the speakers." in said
