"""The table of rules against the recipes and against what it refuses."""

import functools

import pytest
import ruamel.yaml
from conftest import ROOT

from speechbrain_ext.utils.recipe import read_recipe
from speechbrain_ext.utils.values import RULES, check_value, tag_of

YAMLS = sorted((ROOT / "hparams").glob("*.yaml"))
read = functools.cache(read_recipe)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_recipe_keeps_the_rules_and_is_not_changed_by_them(path):
    for key, value in read(path).items():
        assert check_value(key, value) == value, key


def test_rules_are_of_keys_that_there_are():
    known = set().union(*map(read, YAMLS))
    assert RULES.keys() - known == {
        *("debug_batches", "nonfinite_patience", "grad_accumulation_factor"),
        *("optimizer_step_limit", "distributed_backend", "compile_mode"),
        *("profile_warmup", "profile_steps", "eval_precision"),
    }


@pytest.mark.parametrize(
    ("own", "value", "taken"),
    [
        (3, "4", 4.0),
        (3, 4.5, 4.5),
        (0.5, 1, 1),
        (True, "no", False),
        (True, 1, True),
        ("a", 5, "5"),
        ([1], 2, [2]),
        ([1], None, []),
        ([1], "a,b", ["a", "b"]),
        (None, {"a": 1}, {"a": 1}),
        ({}, {"a": 1}, {"a": 1}),
    ],
)
def test_a_key_without_a_rule_follows_the_type_it_has(own, value, taken):
    assert check_value("of_the_user", value, own) == taken


@pytest.mark.parametrize(
    ("own", "value", "said"),
    [
        (3, "four", "must be a number, got 'four'"),
        (3, True, "must be a number, got True"),
        (True, "perhaps", "must be True or False, got 'perhaps'"),
        ({}, 5, "must be a block {key: value, ...}, got 5"),
    ],
)
def test_another_type_is_refused(own, value, said):
    with pytest.raises(ValueError) as error:
        check_value("of_the_user", value, own)
    assert f"`of_the_user` {said}" in str(error.value)


def test_a_path_is_one_and_its_tilde_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    found = check_value("output_folder", "~/res", raw="~/res")
    assert found == "/home/somebody/res"
    assert check_value("start_from", "hf:a/~b") == "hf:a/~b"
    assert check_value("noise_folder", None, raw="~") is None
    for key in ("noise_folder", "rir_folder"):
        with pytest.raises(ValueError, match=f"`{key}` must be a path, or nu"):
            check_value(key, ["a", "b"])


def test_hyperpyyamls_tuple_is_checked_and_kept():
    assert check_value("block_sizes", "(3, 4, 6, 3)") == "(3, 4, 6, 3)"
    with pytest.raises(ValueError, match="`block_sizes` must be a list"):
        check_value("block_sizes", "(3, four)")


def test_values_with_a_tag_are_left_to_what_they_build():
    tree = ruamel.yaml.YAML().load(
        "lr_scale: !ref <a> / 64\nspeeds: [!ref <b>]"
    )
    assert tag_of(check_value("lr_scale", tree["lr_scale"])) == "!ref"
    assert check_value("speeds", tree["speeds"]) == tree["speeds"]
