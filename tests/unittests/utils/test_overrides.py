"""How values of the command line change a recipe."""

import pytest
import ruamel.yaml

from speechbrain_ext.utils.overrides import (
    COMMAND_LINE,
    apply_overrides,
    changed,
    check_known,
)


def test_single_keys_of_a_block_change():
    assert changed({"a": 1, "b": {"c": 2}}, {"b": {"c": 3}}, "x") == {
        "a": 1,
        "b": {"c": 3},
    }
    with pytest.raises(ValueError, match=r"`loss\.scale` must be a number"):
        changed({"scale": 30}, {"scale": "wide"}, "loss")


def test_a_block_with_a_tag_replaces_the_old_one():
    recipe = ruamel.yaml.YAML().load("loss: !new:a.B\n  scale: 30\n")
    assert apply_overrides(recipe, "loss: !new:a.C {width: 2}", "x") == ["loss"]
    assert recipe["loss"].tag.value == "!new:a.C"
    assert dict(recipe["loss"]) == {"width": 2}


def test_a_block_with_a_tag_takes_further_keys_of_its_class():
    recipe = ruamel.yaml.YAML().load("loss: !new:a.B\n  scale: 30\n")
    apply_overrides(recipe, "loss: {width: 2}", "x")
    assert recipe["loss"].tag.value == "!new:a.B"
    assert dict(recipe["loss"]) == {"scale": 30, "width": 2}


def test_run_options_are_suggested_for_the_command_line_alone():
    with pytest.raises(ValueError, match="did you mean 'device'"):
        check_known("devise", ["seed"], COMMAND_LINE)
    with pytest.raises(ValueError, match="unknown key 'devise'.$"):
        check_known("devise", ["seed"], "x.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("- 5", "must have --key=value"),
        ("sead: 5", "unknown key 'sead'; did you mean 'seed'"),
        ("opts: {c: 5}", "unknown key 'c'"),
        ("gpu: 0", "unknown key 'gpu'; did you mean --device=cuda:0"),
        ("seed:", "--seed has no value; write --seed=value"),
        ("seed: five", "`seed` must be"),
    ],
)
def test_what_does_not_fit_is_refused(overrides, message):
    recipe = {"seed": 1, "opts": {"a": 1, "b": 2}}
    with pytest.raises(ValueError, match=message):
        apply_overrides(recipe, overrides, "x.yaml")
    assert recipe == {"seed": 1, "opts": {"a": 1, "b": 2}}
