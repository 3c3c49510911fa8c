"""The command line against SpeechBrain's own reading of it."""

import pytest
import ruamel.yaml
import speechbrain as sb
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_ext.utils.command_line import parse_command_line

SCRIPT = "train.py"


@pytest.mark.parametrize(
    "argv",
    [
        ["x.yaml"],
        ["x.yaml", "--device", "cpu", "--seed", "10"],
        ["x.yaml", "--debug", "--max_grad_norm=1.5", "--speeds=[1.0]"],
        ["x.yaml", "--noprogressbar", "--precision=bf16", "--x1=1", "--x2=c"],
        ["x.yaml", "--jit_module_keys", "a", "b", "--seed=3"],
        ["x.yaml", "--max_grad_norm", "-1"],
        ["x.yaml", "--data_folder=/data/VoxCeleb", "--opts={num_workers: 0}"],
    ],
)
def test_plain_command_lines_match_speechbrain(argv):
    ours, theirs = parse_command_line(argv, SCRIPT), sb.parse_arguments(argv)
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1]
    yaml = ruamel.yaml.YAML()
    assert yaml.load(ours[2] or "{}") == yaml.load(theirs[2] or "{}")


def arrived(argument):
    """What a value becomes on its way through YAML."""
    *_, overrides = parse_command_line(["x.yaml", argument], SCRIPT)
    found = ruamel.yaml.YAML().load(overrides)
    assert list(found) == ["key"]
    return found["key"]


@given(st.text(st.characters(codec="utf-8"), min_size=1))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_path_arrives_whole(text):
    assert arrived(f"--key=/{text}") == f"/{text}"


@given(st.text(st.characters(codec="utf-8"), min_size=1))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_text_arrives_or_is_refused(text):
    begins = text.lstrip()[:1]
    try:
        value = arrived(f"--key={text}")
    except ValueError as error:
        assert not begins or begins in "[{!\"'"
        assert "\n" not in str(error)
    else:
        if isinstance(value, str) and begins not in "\"'":
            assert value == text


def test_order_does_not_matter():
    found = parse_command_line(["--seed", "10", "x.yaml"], SCRIPT)
    assert found[0] == "x.yaml" and found[2] == "seed: 10"
    assert found == parse_command_line(["x.yaml", "--seed=10"], SCRIPT)


def test_a_value_that_looks_like_an_option_is_none():
    *_, run_opts, overrides = parse_command_line(
        ["x.yaml", "--data_folder=--device", "--name", "-5"], SCRIPT
    )
    assert run_opts.device is None and not run_opts.overridden_args
    assert overrides == "data_folder: --device\nname: -5"


def test_flags_can_be_taken_back():
    _, run_opts, _ = parse_command_line(["x.yaml", "--debug=no"], SCRIPT)
    assert run_opts.debug is False


def test_checkpoints_by_steps_take_the_place_of_those_by_minutes():
    argv = ["x.yaml", "--ckpt_interval_steps=2"]
    _, run_opts, _ = parse_command_line(argv, SCRIPT)
    assert run_opts.ckpt_interval_minutes == 0
    assert "ckpt_interval_minutes" in run_opts.overridden_args
    with pytest.raises(ValueError, match="leave one of them out"):
        parse_command_line([*argv, "--ckpt_interval_minutes=5"], SCRIPT)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--trust", "x.yaml"], "trust: True"),
        (["x.yaml", "--trust"], "trust: True"),
        (["x.yaml", "--trust=False"], "trust: False"),
    ],
)
def test_trust_needs_no_value(words, expected):
    recipe, _, overrides = parse_command_line(words, "x.py")
    assert (recipe, overrides) == ("x.yaml", expected)


def test_help_shows_nested_comments_and_nulls(tmp_path, capsys):
    (tmp_path / "train.py").write_text('"""Trains."""')
    path = tmp_path / "x.yaml"
    path.write_text(
        "# Its header.\n\n"
        "opts:\n"
        "    workers: 0    # a worker takes\n"
        "                  # more time\n"
        "    shards: null  # at a time\n"
        "rate: null        # first,\n"
        "                  # second\n"
    )
    with pytest.raises(SystemExit):
        parse_command_line([str(path), "--help"], tmp_path / "train.py")
    lines = capsys.readouterr().out.splitlines()
    assert "  opts:" in lines
    assert any(line.startswith("    shards: null") for line in lines)
    (rate,) = [line for line in lines if line.startswith("  rate: null ")]
    assert rate.endswith("# first, second")
    assert ruamel.yaml.YAML().load("a:\n")["a"] is None
