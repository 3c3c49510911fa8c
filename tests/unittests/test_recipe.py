"""Recipes that extend others, and what is wrong with those that are wrong."""

import io

import pytest
from hyperpyyaml import load_hyperpyyaml
from processes import on_processes

from speechbrain_ext.utils.recipe import (
    RecipeText,
    claim_folder,
    compose_recipe,
    load_recipe,
)

BASE = """\
size: 3
folder: results/base
log: !ref <folder>/log.txt
counter: !new:collections.Counter
    a: !ref <size>
"""


@pytest.fixture
def write(tmp_path):
    """Writes a YAML and returns its path."""

    def to(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    to("base.yaml", BASE)
    return to


KEYS = ("log", "counter")


def test_child_changes_keys_and_references_follow(write):
    path = write("child.yaml", "extends: base.yaml\nfolder: results/child\n")
    hparams, text = load_recipe(path, keys=KEYS)
    assert hparams["log"] == "results/child/log.txt"
    assert hparams["counter"] == {"a": 3}
    # the text stands alone
    assert load_hyperpyyaml(io.StringIO(text)) == hparams


def test_later_parents_and_the_command_line_have_the_last_word(write):
    write("small.yaml", "size: 1\nfolder: results/small\n")
    path = write(
        "both.yaml", "extends: [base.yaml, small.yaml]\nfolder: results/both\n"
    )
    hparams, _ = load_recipe(path, "size: 7", KEYS)
    assert hparams["counter"] == {"a": 7}
    assert hparams["log"] == "results/both/log.txt"


def test_command_line_changes_blocks_key_by_key_and_fills_empty_ones(write):
    path = write("base2.yaml", BASE + "noise: null\nopts: {}\nmore: {a: 1}\n")
    keys = (*KEYS, "noise", "opts", "more")
    overrides = (
        "counter: {b: 5}\nnoise: {kind: pair, rate: 0.1}\n"
        "opts: {a: 1, b: 2}\nmore: {a: 2}"
    )
    hparams, text = load_recipe(path, overrides, keys)
    assert hparams["counter"] == {"a": 3, "b": 5}
    assert hparams["noise"] == {"kind": "pair", "rate": 0.1}
    assert hparams["opts"] == {"a": 1, "b": 2} and hparams["more"] == {"a": 2}
    assert load_hyperpyyaml(io.StringIO(text)) == hparams


def test_block_with_a_tag_is_replaced_whole(write):
    path = write(
        "child.yaml",
        "extends: base.yaml\ncounter: !new:collections.Counter\n    b: 2\n",
    )
    assert load_recipe(path, keys=("log", "counter", "size"))[0]["counter"] == {
        "b": 2
    }


def test_block_without_a_tag_changes_single_keys(write):
    path = write("child.yaml", "extends: base.yaml\ncounter:\n    b: 2\n")
    assert load_recipe(path, keys=KEYS)[0]["counter"] == {"a": 3, "b": 2}


def test_child_takes_out_what_nothing_uses_any_more(write):
    path = write(
        "child.yaml",
        "extends: base.yaml\nwithout: [size]\n"
        "counter: !new:collections.Counter\n    b: 2\n",
    )
    assert load_recipe(path, keys=KEYS)[0]["counter"] == {"b": 2}
    with pytest.raises(ValueError, match="unknown key 'size'"):
        load_recipe(path, "size: 4", KEYS)
    path = write("other.yaml", "extends: base.yaml\nwithout: [sise]\n")
    with pytest.raises(ValueError, match="unknown key 'sise'.*'size'"):
        load_recipe(path, keys=KEYS)


def test_without_extends_it_is_plain_hyperpyyaml(write):
    path = write("plain.yaml", BASE)
    assert load_recipe(path, keys=KEYS)[0] == load_hyperpyyaml(BASE)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (BASE + "sizes: 4\n", "", "unknown key 'sizes'; did you mean 'size'"),
        (
            BASE + "opts:\n    num_workers: 4\n",
            "opts: {num_worker: 0}",
            "command line has an unknown key 'num_worker'.*'num_workers'",
        ),
        (BASE, "sice: 4", "command line has an unknown key 'sice'.*'size'"),
        (BASE.replace("log:", "lok:"), "", "lacks the key 'log'"),
        ("extends: base.yaml\nsise: 4\n", "", "unknown key 'sise'.*'size'"),
        ("extends: none.yaml\n", "", "none.yaml does not exist"),
        ("extends: [base.yaml, none.yaml]\n", "", "none.yaml does not exist"),
        ("a: [", "", "is not a YAML"),
        (BASE.replace("3", "!PLACEHOLDER"), "", "'size' is a !PLACEHOLDER"),
        (BASE.replace("Counter", "Counting"), "", "Counting"),
        (
            BASE.replace("collections.Counter", "fractions.Fraction"),
            "",
            "unexpected keyword argument 'a'",
        ),
    ],
)
def test_what_is_wrong_is_said(write, text, overrides, message):
    path = write("bad.yaml", text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path, overrides, KEYS)


def test_missing_recipe_is_said(tmp_path):
    with pytest.raises(ValueError, match="gone.yaml does not exist"):
        compose_recipe(tmp_path / "gone.yaml")


def test_option_given_twice_is_refused(write):
    path = write("twice.yaml", BASE)
    with pytest.raises(ValueError, match='duplicate key "size"'):
        load_recipe(path, "size: 1\nsize: 2", KEYS)


def test_what_has_changed_since_a_checkpoint_is_named(tmp_path, caplog):
    old = "rate: 0.1\nloss: !new:a.B\n    margin: 0.2\nspeeds: [1.0]\nold: 1\n"
    new = "rate: 0.1\nloss: !new:a.C\n    margin: 0.3\nspeeds: [1.0, 0.9]\n"
    RecipeText(old)._save(tmp_path / "recipe.ckpt")
    assert RecipeText(new).changes(tmp_path / "recipe.ckpt") == [
        "loss tag: !new:a.B -> !new:a.C",
        "loss.margin: 0.2 -> 0.3",
        "speeds: [1.0] -> [1.0, 0.9]",
        "old: 1 -> nothing",
    ]
    RecipeText(new)._recover(tmp_path / "recipe.ckpt", True)
    assert "since, loss.margin: 0.2 -> 0.3" in caplog.text


def refusal(folder):
    """What a process hears that claims a folder."""
    with pytest.raises(OSError, match="Another run") as error:
        claim_folder(folder, "seed: 2")
    return (str(error.value),)


def test_a_folder_is_of_one_run(tmp_path):
    claim_folder(tmp_path, "seed: 1")
    claim_folder(tmp_path, "seed: 1")  # the same process may
    (said,) = on_processes(refusal, 1, tmp_path)[0]
    assert "Another run (process" in said
    assert (tmp_path / "hyperparams.yaml").read_text() == "seed: 1"
