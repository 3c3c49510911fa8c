"""Lists of utterances: three forms, one table."""

import pytest

from speechbrain_ext.dataio.file_lists import list_named, list_utterances


def test_paths_are_looked_for_in_the_folders(tmp_path):
    (tmp_path / "b" / "id1").mkdir(parents=True)
    (tmp_path / "b" / "id1" / "2.wav").touch()
    path = tmp_path / "list"
    path.write_text("id1 id1/1.wav\nid1  id1/2.wav\nid2 /d/x/y/z 3.wav\n")
    files = list_named(path, [tmp_path / "a", tmp_path / "b"])
    assert files.ID.tolist() == ["id1/1", "id1/2", "x/y/z 3"]
    assert files.wav.tolist() == [
        str(tmp_path / "a" / "id1" / "1.wav"),  # nowhere: the first folder
        str(tmp_path / "b" / "id1" / "2.wav"),
        "/d/x/y/z 3.wav",
    ]


def test_csv_keeps_text_and_pieces(tmp_path):
    path = tmp_path / "list.CSV"
    path.write_text(
        "ID, duration, wav, start, stop, spk_id\n"
        "007,1,{data_root}/7.wav,0,16000,0012\n"
    )
    (row,) = list_named(path, ["/d"]).to_dict("records")
    assert row == {
        "ID": "007",
        "wav": "/d/7.wav",
        "spk_id": "0012",
        "official_test": False,
        "start": 0,
        "stop": 16000,
    }


@pytest.mark.parametrize("column", ["start", "stop"])
def test_a_piece_needs_its_start_and_its_stop(column, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(f"ID,wav,spk_id,{column}\n1,1.wav,a,8000\n")
    with pytest.raises(ValueError, match=f"a column {column}, but.*add the"):
        list_named(path, ["/d"])


def test_true_speakers_of_a_noisy_csv_are_kept(tmp_path):
    noisy, other = tmp_path / "noisy.csv", tmp_path / "other.csv"
    noisy.write_text("ID,wav,spk_id,spk_id_clean\n1,1.wav,a,b\n2,2.wav,a,\n")
    other.write_text("ID,wav,spk_id\n3,3.wav,c\n")
    files, _ = list_utterances(["/d"], [noisy, other])
    assert files["spk_id"].tolist() == ["a", "a", "c"]
    assert files["spk_id_clean"].tolist() == ["b", "a", "c"]
    assert "spk_id_clean" not in list_utterances(["/d"], [other])[0]


def test_a_csv_of_another_order_keeps_its_rows_together(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("spk_id,ID,wav\n\nb,2,two.wav\na,1,one.wav\n")
    files = list_named(path, ["/d"])
    assert files[["ID", "wav", "spk_id"]].to_numpy().tolist() == [
        ["1", "/d/one.wav", "a"],
        ["2", "/d/two.wav", "b"],
    ]


def test_a_message_shows_little_of_a_long_name(tmp_path):
    path = tmp_path / "list.txt"
    name = "x" * 10000
    path.write_text(f"a {name}.wav\nb {name}.wav\n")
    with pytest.raises(ValueError, match="have the ID xxx") as caught:
        list_named(path, ["/d"])
    assert len(str(caught.value)) < 1000


def test_a_list_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        list_named(tmp_path / "nowhere", ["/d"])


@pytest.mark.parametrize("line", ["anna", "/data/anna/s/1.WAV anna"])
def test_a_line_that_is_not_speaker_and_path_is_named(line, tmp_path):
    source = tmp_path / "list.txt"
    source.write_text(f"ben ben/s/0.wav\n{line}\n")
    with pytest.raises(ValueError, match="Line 2 of .* must be `speaker path`"):
        list_utterances([str(tmp_path)], [str(source)])


def test_one_file_under_two_ids_is_not_trained_on_and_tested(tmp_path):
    """Both names would pass: the trial's ID is that of the folder."""
    for name in ("anna/s/0", "anna/s/1", "ben/s/0"):
        path = tmp_path / "data" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folders, source = [tmp_path / "data"], tmp_path / "list.csv"
    source.write_text("ID,wav,spk_id\nx,anna/s/0.wav,a\ny,ben/s/0.wav,b\n")
    with pytest.raises(
        ValueError, match="is anna/s/0 in a trial list and x in"
    ):
        list_utterances(folders, [source], ["anna/s/0", "ben/s/0"])
    with pytest.raises(ValueError, match="of speaker a .* is that of anna, a"):
        list_utterances(folders, [source], ["anna/s/1"])
    files, _ = list_utterances(folders, [source], ["x", "y"])
    assert files.spk_id.tolist() == ["a", "b"]
    source.write_text("anna anna/s/0.wav\nben ben/s/0.wav\n")
    source = source.rename(tmp_path / "list.txt")
    files, _ = list_utterances(folders, [source], ["anna/s/1"])
    assert files.spk_id.tolist() == ["anna", "anna", "ben"]
