"""A part of a file behaves as a file of its own."""

import io

import numpy as np
import pytest
import soundfile

from speechbrain_ext.dataio.tar_members import opened


def test_a_member_reads_and_seeks_as_its_bytes_do(tmp_path):
    held = bytes(range(250))
    (tmp_path / "a.tar").write_bytes(b"x" * 99 + held + b"y" * 99)
    alone = io.BytesIO(held)
    with opened(f"{tmp_path}/a.tar#99+250") as member:
        for place, whence, wanted in [
            *((0, 0, 7), (-9, 2, 20), (5, 0, 3), (2, 1, 3), (300, 0, 5)),
            *((240, 0, -1), (0, 0, -1)),
        ]:
            assert member.seek(place, whence) == alone.seek(place, whence)
            assert member.read(wanted) == alone.read(wanted)
            assert member.tell() == alone.tell()


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_a_piece_of_a_sound_is_read_in_place(tmp_path, ending):
    noise = np.random.default_rng(0).normal(0, 0.1, 20000)
    soundfile.write(tmp_path / f"1.{ending}", noise, 16000)
    held = (tmp_path / f"1.{ending}").read_bytes()
    (tmp_path / "a.tar").write_bytes(b"x" * 512 + held + b"y" * 512)
    want, _ = soundfile.read(tmp_path / f"1.{ending}", 500, 7000)
    with opened(f"{tmp_path}/a.tar#512+{len(held)}") as member:
        found, rate = soundfile.read(member, 500, 7000)
    assert rate == 16000
    assert np.array_equal(found, want)


@pytest.mark.parametrize("path", ["/d/a.wav", "/d/#1+2.wav", "/d/a.tar#1"])
def test_other_paths_stay_paths(path):
    with opened(path) as found:
        assert found == path


def test_a_shard_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(OSError, match="gone.tar"):
        with opened(f"{tmp_path}/gone.tar#0+1"):
            pass
