"""What the report of label noise counts."""

import json

import pytest
from noisy_tables import mixed_sizes, table

from speechbrain_ext.dataio.label_noise import corrupt_labels, write_corrupted
from speechbrain_ext.dataio.label_noise_report import (
    labels_fingerprint,
    noise_report,
)
from speechbrain_ext.dataio.manifests import read_manifest


def test_manifest_and_report_stand_side_by_side(tmp_path):
    manifest = table()
    manifest["duration"], manifest["start"], manifest["stop"] = 1.0, 0, 16000
    noisy, report = corrupt_labels(manifest, "merge", 0.5, 1)
    written = write_corrupted(noisy, report, tmp_path / "noisy.csv")
    assert written == tmp_path / "label_noise.json"
    assert json.loads(written.read_text()) == report
    found = read_manifest(tmp_path / "noisy.csv")
    assert list(found["spk_id"]) == list(noisy["spk_id"])


def test_counts_of_labels_that_were_changed_by_hand():
    manifest = table(3, utterances=2)  # 4, 6 and 8 utterances
    manifest["spk_id_clean"] = manifest["spk_id"]
    manifest.loc[[0, 1, 4], "spk_id"] = ["id1", "id2", "id2"]
    report = noise_report(manifest, "session", 0.2, 7, {"exact": True, "x": []})
    assert report["corrupted_by_class"] == {
        "id0": [2, 4],
        "id1": [1, 6],
        "id2": [0, 8],
    }
    assert report["transitions"] == [
        ["id0", "id1", 1],
        ["id0", "id2", 1],
        ["id1", "id2", 1],
    ]
    assert report["rate_reached"] == pytest.approx(3 / 18)
    assert report["options"] == {"exact": True}
    assert (report["sessions"], report["sessions_corrupted"]) == (6, 2)


def test_the_speakers_that_may_be_corrupted_are_counted_apart():
    manifest = mixed_sizes()
    for kind in ("session", "split"):
        _, report = corrupt_labels(manifest, kind, 0.5, 1, min_sessions=2)
        confined = report["confined_to"]
        assert confined["speakers"] == 6
        assert confined["utterances"] == len(manifest) - 5 - 10
        wrong = confined["rate_reached"] * confined["utterances"]
        assert wrong == pytest.approx(report["corrupted"])
    assert "confined_to" not in corrupt_labels(manifest, "split", 0.5, 1)[1]


def test_a_fingerprint_is_of_the_labels_alone():
    one = labels_fingerprint(["a", "b"], ["1", "2"])
    assert labels_fingerprint(["b", "a"], ["2", "1"]) == one
    assert labels_fingerprint(["a", "b"], ["2", "1"]) != one
