"""Which files a recipe is made of, and how blocks change."""

import pytest

from speechbrain_ext.utils.composition import (
    COMMAND_LINE,
    changed,
    check_known,
    compose_recipe,
    recipe_files,
)


@pytest.fixture
def folder(tmp_path):
    """Recipes that extend each other."""
    for name, text in {
        "base.yaml": "a: 1\nb: {c: 2}\n",
        "more.yaml": "a: 5\n",
        "child.yaml": "extends: base.yaml\na: 2\n",
        "both.yaml": "extends: [child.yaml, more.yaml]\nb: {c: 3}\n",
        "x.yaml": "extends: y.yaml\n",
        "y.yaml": "extends: [z.yaml]\n",
        "z.yaml": "extends: x.yaml\n",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_files_are_listed_with_the_last_word_last(folder):
    names = [path.name for path in recipe_files(folder / "both.yaml")]
    assert names == ["base.yaml", "child.yaml", "more.yaml", "both.yaml"]
    assert compose_recipe(folder / "both.yaml") == {"a": 5, "b": {"c": 3}}


def test_a_circle_is_named(folder):
    circle = "x.yaml extends y.yaml extends z.yaml extends x.yaml"
    with pytest.raises(ValueError, match=circle):
        compose_recipe(folder / "x.yaml")


def test_single_keys_of_a_block_change():
    assert changed({"a": 1, "b": {"c": 2}}, {"b": {"c": 3}}, "x.yaml") == {
        "a": 1,
        "b": {"c": 3},
    }
    with pytest.raises(ValueError, match=r"`loss\.scale` must be a number"):
        changed({"scale": 30}, {"scale": "wide"}, COMMAND_LINE, "loss")


def test_run_options_are_suggested_for_the_command_line_alone():
    with pytest.raises(ValueError, match="did you mean 'device'"):
        check_known("devise", ["seed"], COMMAND_LINE)
    with pytest.raises(ValueError, match="unknown key 'devise'.$"):
        check_known("devise", ["seed"], "x.yaml")
