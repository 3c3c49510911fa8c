"""Reading of YAMLs: tags and comments are kept, sizes are bounded."""

import io

import pytest
import ruamel.yaml

from speechbrain_ext.utils.yaml_files import (
    check_references,
    parse_yaml,
    read_text,
    read_yaml,
)

TEXT = "seed: 42  # of all\na: !new:x.Y\n  b: !ref <seed>\n"


def test_tags_and_comments_are_kept(tmp_path):
    (tmp_path / "a.yaml").write_text(TEXT)
    stream = io.StringIO()
    ruamel.yaml.YAML().dump(read_yaml(tmp_path / "a.yaml"), stream)
    assert stream.getvalue() == TEXT
    assert read_text(tmp_path / "a.yaml") == TEXT


def test_a_command_line_may_be_any_value():
    assert parse_yaml("5", "it") == 5
    assert parse_yaml("[1, 2]", "it") == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: !ref <a>\nc: !ref <b> + <a>\n",
        "a:\n  b: 1\n  c: !ref <a[b]>\n",
        "a: &x {b: 1}\nc: {<<: *x}\nd: !ref <c[b]>\n",
        "a: !new:x.Y {}\nb: !ref <a.size>\nc: [!ref <a>, !copy <a>]\n",
        "a: <b>\n",  # no !ref: a text
    ],
)
def test_references_that_end_are_fine(text):
    check_references(text, "x.yaml")


def test_references_are_followed_only_if_wanted():
    text = "a: !ref <other_file>\n"
    check_references(text, "x.yaml", follow=False)
    with pytest.raises(ValueError, match="x.yaml refers to <other_file>"):
        check_references(text, "x.yaml")


def test_a_misspelt_yaml_is_suggested(tmp_path):
    (tmp_path / "hparams").mkdir()
    (tmp_path / "hparams" / "resnet_aam.yaml").touch()
    for name in ("resnet_am.yaml", "hparams/resnet_aam.yml"):
        with pytest.raises(ValueError, match="did you mean .*hparams/resnet_a"):
            read_text(tmp_path / name)
    with pytest.raises(ValueError, match="pass the path of a file"):
        read_text(tmp_path / "other.yaml")
