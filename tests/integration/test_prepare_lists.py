"""The preparation from lists: Clova's, Kaldi's and CSV tables."""

import pytest
from small_corpus import contents, write

from speechbrain_ext.dataio.label_noise import corrupt_labels
from speechbrain_ext.dataio.manifests import read_manifest, write_manifest
from speechbrain_ext.inference.noisy_labels import (
    development_data,
    training_manifest,
)


def names_of(tree):
    """Every utterance: ID, path below the tree, speaker."""
    files = sorted((tree / "wav").rglob("*.*"))
    return [
        ("/".join(path.with_suffix("").parts[-3:]), path, path.parts[-3])
        for path in files
        if path.is_file()
    ]


def write_clova(tree, folder):
    """A list of `speaker path` lines, below the data folder."""
    lines = [f"{s} {p.relative_to(tree)}\n" for _, p, s in names_of(tree)]
    (folder / "train_list.txt").write_text("".join(reversed(lines)))
    return folder / "train_list.txt"


def write_scp(tree, folder):
    """A Kaldi data folder."""
    folder = folder / "data"
    folder.mkdir()
    rows = names_of(tree)
    wavs = [f"{name} {path}\n" for name, path, _ in rows]
    (folder / "wav.scp").write_text("".join(wavs))
    speakers = [f"{name} {speaker}\n" for name, _, speaker in rows]
    (folder / "utt2spk").write_text("".join(speakers))
    return folder


def write_csv(tree, folder):
    """A CSV of SpeechBrain's with its placeholder."""
    lines = [
        f"{name},9.0,$data_root/{path.relative_to(tree)},{speaker}\n"
        for name, path, speaker in names_of(tree)
    ]
    path = folder / "list.csv"
    path.write_text("ID,duration,wav,spk_id\n" + "".join(lines))
    return path


def test_a_noisy_list_keeps_its_true_speakers(prepare, tree, tmp_path):
    prepare(str(tree), str(tmp_path / "clean"))
    clean = read_manifest(tmp_path / "clean" / "train.csv")
    noisy, _ = corrupt_labels(clean, "merge", 0.5, seed=1)
    (tmp_path / "made").mkdir()
    listed = tmp_path / "made" / "noisy.csv"
    write_manifest(noisy, listed)
    save = tmp_path / "save"
    prepare(str(tree), str(save), file_list=listed, dev_speakers=2)
    for name in ("train", "dev"):
        found = read_manifest(save / f"{name}.csv")
        expected = noisy.set_index("ID").loc[found.ID]
        for column in ("spk_id", "spk_id_clean"):
            assert found[column].tolist() == expected[column].tolist()
    test = read_manifest(save / "test.csv")  # the list does not have these
    assert (test.spk_id == test.spk_id_clean).all()
    asked = {"kind": "merge", "rate": 0.5}
    with pytest.raises(ValueError, match="corrupted already; start from the c"):
        training_manifest(save, asked, seed=1)
    with pytest.raises(ValueError, match="corrupted already"):
        development_data(save, 2, 10, asked, seed=1)


@pytest.mark.parametrize("make", [write_clova, write_scp, write_csv])
def test_prepare_from_a_list_gives_what_the_tree_gives(
    prepare, tree, tmp_path, make
):
    listed = make(tree, tmp_path)
    prepare(str(tree), str(tmp_path / "tree"), dev_speakers=2)
    prepare(str(tree), str(tmp_path / "list"), dev_speakers=2, file_list=listed)
    one, other = contents(tmp_path / "tree"), contents(tmp_path / "list")
    assert one.pop("prepare.json") != other.pop("prepare.json")
    assert one == other


def test_prepare_from_a_training_list_finds_the_trials(prepare, tree, tmp_path):
    path = tmp_path / "train_list.txt"
    path.write_text("id0 wav/id0/s0/0.wav\nid3 wav/id3/s1/1.flac\n")
    save = tmp_path / "save"
    prepare(str(tree), str(save), file_list=path)
    assert read_manifest(save / "train.csv").ID.tolist() == [
        *("id0/s0/0", "id3/s1/1")
    ]
    assert len(read_manifest(save / "test.csv")) == 5


def test_prepare_takes_pieces_of_files(prepare, tree, tmp_path):
    path = tmp_path / "list.csv"
    rows = "a,wav/id0/s0/0.wav,0,2000,x\nb,wav/id0/s0/0.wav,2000,-1,y\n"
    path.write_text("ID,wav,start,stop,spk_id\n" + rows)
    save = tmp_path / "save"
    options = {"file_list": str(path), "trial_lists": [], "kaldi": True}
    prepare(str(tree), str(save), **options)
    train = read_manifest(save / "train.csv")
    assert train.start.tolist() == [0, 2000]
    assert train.stop.tolist() == [2000, 8000]
    assert train.duration.tolist() == [0.125, 0.375]
    segments = (save / "kaldi" / "train" / "segments").read_text()
    assert segments.splitlines()[1] == "b rec00000000 0.125000 0.500000"
    # a piece that starts at 0 is no whole file
    first = rows.replace("id0/s0/0.wav,2000", "id0/s1/0.wav,0")
    path.write_text("ID,wav,start,stop,spk_id\n" + first)
    prepare(str(tree), str(tmp_path / "first"), **options)
    segments = tmp_path / "first" / "kaldi" / "train" / "segments"
    line = segments.read_text().splitlines()[0]
    assert line == "a rec00000000 0.000000 0.125000"
    path.write_text("ID,wav,start,stop,spk_id\n" + rows.replace("-1", "9000"))
    with pytest.raises(ValueError, match="shorter than its list says"):
        prepare(str(tree), str(save), **options)


def test_a_broken_piece_leaves_the_others_of_its_file(prepare, tree, tmp_path):
    folders = sorted((tree / "wav").iterdir())
    wavs = [next(folder.rglob("*.wav"), None) for folder in folders]
    wavs = [wav for wav in wavs if wav][:3]
    rows = f"ID,wav,start,stop,spk_id\nx-2,{wavs[0]},0,99999,x\n"
    for speaker, wav in zip("xyz", wavs, strict=True):
        rows += f"{speaker}-0,{wav},0,2000,{speaker}\n"
        rows += f"{speaker}-1,{wav},2000,4000,{speaker}\n"
    (tmp_path / "list.csv").write_text(rows)
    trials, save = tmp_path / "trials.txt", tmp_path / "save"

    def run(text):
        trials.write_text(text)
        listed = str(tmp_path / "list.csv")
        more = {"file_list": listed, "max_unreadable": 0.2}
        prepare(str(tree), str(save), trial_lists=[str(trials)], **more)

    run("1 x-0 x-1\n0 x-1 x-0\n")
    assert read_manifest(save / "test.csv").ID.tolist() == ["x-0", "x-1"]
    with pytest.raises(ValueError, match="^1 files of .*shorter than its list"):
        run("1 x-0 x-1\n0 x-0 x-2\n")


def test_a_tested_file_is_known_by_a_link_too(prepare, tree, tmp_path):
    (tmp_path / "link").symlink_to(tree)
    rows = "ID,wav,spk_id\n"
    for path in sorted((tree / "wav").glob("*/*/*.wav")):
        speaker, session, name = path.parts[-3:]
        wav = tmp_path / "link" / path.relative_to(tree)
        rows += f"{speaker}-{session}-{name},{wav},spk-{speaker}\n"
    (tmp_path / "list.csv").write_text(rows)
    listed = str(tmp_path / "list.csv")
    with pytest.raises(ValueError, match="who would stay in training"):
        prepare(str(tree), str(tmp_path / "save"), file_list=listed)


def test_prepare_writes_what_kaldi_reads(prepare, tree, tmp_path):
    save = tmp_path / "save"
    prepare(str(tree), str(save), dev_speakers=2, kaldi=True)
    assert sorted(path.name for path in (save / "kaldi").iterdir()) == [
        *("dev", "test", "train")
    ]
    again = tmp_path / "again"
    prepare(
        str(tree),
        str(again),
        trial_lists=[],
        file_list=str(save / "kaldi" / "train"),
    )
    assert contents(save)["train.csv"] == contents(again)["train.csv"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("l.txt", "id0 wav/id0/s0/0.wav\nid0\n", "Line 2 .*`id0` must be"),
        ("l.txt", "\n", "names no file"),
        ("l.txt", "a wav/id0/s0/0.wav", "one, `a`, .* --layout .*--file_list"),
        ("l.txt", "a wav/id0/s0/0.wav\nb wav/id0", "1 of 2 .*wav/id0 ."),
        ("l.txt", "a wav/id0/s0/0.wav\nb {source}", "1 of 2 .*unreadable"),
        ("l.txt", "a wav/id0/s0/0.wav\nb ../../../no.wav", "1 of the 2"),
        ("l.txt", "a x/s/1.wav\na y/x/s/1.flac", "Two rows .* ID x/s/1: "),
        ("l.txt", "a x/s/1.wav\na wav/id0/s0/0.wav", "1 of the 2 .*1.wav"),
        ("l.csv", "ID,wav\na,b", "lacks the columns spk_id"),
        ("l.csv", "ID,wav,start,stop,spk_id\na,b,x,1,c", "start is x"),
        ("wav.scp", "a wav/id0/s0/0.wav\na b", "Line 2 .* a for the second"),
        ("wav.scp", "a sph2pipe b.sph |", "gives a command for a"),
        ("wav.scp", "b x.wav", "utt2spk has no speaker of b"),
        ("segments", "", "has segments"),
    ],
)
def test_prepare_rejects_bad_lists(prepare, tree, tmp_path, name, text, reason):
    source = tmp_path / name
    if "." not in name or name.endswith("scp"):
        source = write_scp(tree, tmp_path)
        (source / "utt2spk").write_text("a a\n")
        (source / name).write_text(text)
    else:
        source.write_text(text.replace("{source}", str(source)))
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        prepare(
            str(tree),
            str(tmp_path / "save"),
            trial_lists=[],
            file_list=str(source),
        )
    assert not (tmp_path / "save").exists()


def test_a_trial_that_no_list_has_says_where_to_add_it(prepare, tmp_path):
    root, listed = tmp_path / "own", tmp_path / "list.txt"
    lines = []
    for number in range(4):
        write(root / f"{number}.wav")
        lines.append(f"speaker{number // 2} {number}.wav\n")
    listed.write_text("".join(lines[:3]))
    trials = tmp_path / "trials.txt"
    trials.write_text("1 2 3\n0 1 3\n")
    options = {"trial_lists": str(trials), "file_list": str(listed)}
    with pytest.raises(ValueError, match="1 files of the .*`file_list`.* 3;"):
        prepare(str(root), str(tmp_path / "save"), test_only=True, **options)
    listed.write_text("".join(lines))
    prepare(str(root), str(tmp_path / "save"), test_only=True, **options)
    test = read_manifest(tmp_path / "save" / "test.csv")
    assert test.ID.tolist() == ["1", "2", "3"]
    assert test.spk_id.tolist() == ["speaker0", "speaker1", "speaker1"]


def test_a_file_in_two_lists_is_an_error(prepare, tree, tmp_path):
    listed = write_clova(tree, tmp_path)
    with pytest.raises(ValueError, match="Two files have the ID id0/s0/0"):
        prepare(
            str(tree), str(tmp_path / "save"), file_list=f"{listed},{listed}"
        )
