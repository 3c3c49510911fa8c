"""Recipes are loaded, and what is wrong with those that are wrong."""

import io
import shutil

import pytest
from hyperpyyaml import load_hyperpyyaml
from processes import on_processes

from speechbrain_ext.utils.command_line import parse_command_line
from speechbrain_ext.utils.recipe import (
    RecipeText,
    claim_folders,
    load_recipe,
    read_recipe,
    require_resumable,
    write_recipe,
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


def test_a_recipe_is_plain_hyperpyyaml(write):
    path = write("plain.yaml", BASE)
    assert load_recipe(path, keys=KEYS)[0] == load_hyperpyyaml(BASE)


@pytest.mark.parametrize("key", ["checkpointer", "loss", "epoch_counter"])
def test_what_a_training_needs_is_not_null(key, write):
    path = write("plain.yaml", f"{key}: !new:collections.Counter\n")
    assert load_recipe(path, keys=[key])[0] == {key: {}}
    with pytest.raises(ValueError, match=f"`{key}` must not be null.*--{key}"):
        load_recipe(path, f"{key}: null", [key])


def test_no_module_is_null(write):
    path = write("plain.yaml", "modules:\n  loss: !new:collections.Counter\n")
    assert load_recipe(path, keys=["modules"])[0] == {"modules": {"loss": {}}}
    for changed, words in (
        ("{loss: null}", "`modules: loss` must not be null.*leave --modules o"),
        ("5", "`modules` must be a block .*, got 5"),
        ("null", "`modules` must be a block .*, got None"),
    ):
        with pytest.raises(ValueError, match=words):
            load_recipe(path, f"modules: {changed}", ["modules"])
    with pytest.raises(ValueError, match="`modules` must not be null"):
        load_recipe(write("null.yaml", "modules: null\n"), keys=["modules"])


def test_the_command_line_changes_keys_and_references_follow(write):
    path = write("plain.yaml", BASE)
    overrides = "folder: results/other\nsize: 7"
    hparams, text = load_recipe(path, overrides, KEYS)
    assert hparams["log"] == "results/other/log.txt"
    assert hparams["counter"] == {"a": 7}
    # the text stands alone
    assert load_hyperpyyaml(io.StringIO(text)) == hparams


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
    path = write("base.yaml", BASE)
    overrides = "counter: !new:collections.Counter {b: 2}"
    hparams, _ = load_recipe(path, overrides, ("log", "counter", "size"))
    assert hparams["counter"] == {"b": 2}


@pytest.mark.parametrize(
    "parents", ["base.yaml", "[base.yaml, more.yaml]", "none.yaml", "null"]
)
def test_a_recipe_that_extends_another_is_told_what_to_do(write, parents):
    text = f"extends: {parents}\nwithout: [size]\nfolder: results/child\n"
    path = write("child.yaml", text)
    with pytest.raises(ValueError) as error:
        load_recipe(path, keys=KEYS)
    assert str(error.value) == (
        f"{path}: `extends` is no longer supported; copy a standalone recipe "
        "from hparams/ and change its keys, or pass them on the command line "
        "as --key=value."
    )


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
        ("a: [", "", "is not valid YAML"),
        (BASE.replace("3", "!PLACEHOLDER"), "", "needs `size`; pass --size="),
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
        read_recipe(tmp_path / "gone.yaml")


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
    assert "since the checkpoint: loss.margin: 0.2 -> 0.3" in caplog.text


@pytest.mark.parametrize("swapped", [False, True])
def test_a_block_that_is_new_is_named_by_its_keys(swapped, tmp_path):
    texts = ["noise: null\n", "noise: {kind: pair, rate: 0.1}\n"]
    old, new = reversed(texts) if swapped else texts
    RecipeText(old)._save(tmp_path / "recipe.ckpt")
    said = ["noise.kind: nothing -> pair", "noise.rate: nothing -> 0.1"]
    if swapped:
        said = ["noise.kind: pair -> nothing", "noise.rate: 0.1 -> nothing"]
    assert RecipeText(new).changes(tmp_path / "recipe.ckpt") == said


def refusal(folder, other=None):
    """What a process hears that claims a folder."""
    with pytest.raises(OSError, match="Another run") as error:
        if other:
            claim_folders(other, folder, "seed: 2", patience=0.1)
        write_recipe(folder, "seed: 2", patience=0.1)
    return (str(error.value),)


def test_a_folder_is_of_one_run(tmp_path):
    write_recipe(tmp_path, "seed: 1")
    write_recipe(tmp_path, "seed: 1")  # the same process may
    (said,) = on_processes(refusal, 1, tmp_path)[0]
    assert "Another run (process" in said
    assert (tmp_path / "hyperparams.yaml").read_text() == "seed: 1"


def test_a_save_folder_is_of_one_run_too(tmp_path):
    shared = tmp_path / "shared"
    claim_folders(tmp_path / "a", shared, "seed: 1")
    claim_folders(tmp_path / "a", shared, "seed: 1")
    (said,) = on_processes(refusal, 1, shared, tmp_path / "b")[0]
    assert f"is writing to {shared};" in said
    shutil.rmtree(shared)  # a run that failed takes its empty folder away
    claim_folders(tmp_path / "a", shared, "seed: 1")
    assert shared.is_dir()


def test_a_wrong_value_is_said_before_anything_is_built(write, tmp_path):
    made = tmp_path / "made"
    text = f"batch_size: 8\nmade: !apply:os.mkdir [{made}]\n"
    path = write("make.yaml", text)
    keys = ("batch_size", "made")
    with pytest.raises(ValueError, match="from 1 .*got -3; .*make.yaml has 8"):
        load_recipe(path, "batch_size: -3", keys)
    write("make.yaml", text.replace("8", "-8"))
    with pytest.raises(ValueError, match="got -8; change it in .*make.yaml"):
        load_recipe(path, keys=keys)
    assert not made.exists()


def test_the_command_line_may_leave_a_key_without_use(write):
    path = write("base.yaml", BASE)
    hparams, _ = load_recipe(path, "counter: {a: 5}", KEYS)
    assert hparams["counter"] == {"a": 5}
    with pytest.raises(ValueError, match="--size has no effect"):
        load_recipe(path, "counter: {a: 5}\nsize: 4", KEYS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("dev_speakers: 4", "dev_speakers: 8"), "`dev_speakers` 4, but this"),
        (("dev_trials: 40", "dev_trials: 50"), "`dev_trials` 40, but this"),
        (("seed: 1", "seed: 2"), "`seed` 1, but this run has 2; use 1 to"),
        (("[1.0]", "[1.0, 0.9]"), r"`speeds` \[1.0\], but this run has"),
        (("channels: 4", "channels: 8"), "`embedding_model.channels` 4, but"),
        (("Adam", "SGD"), "`opt_class` !new:x.Adam, but this run has !new:x.S"),
        (("{rate: 0.3}", "null"), r"another `label_noise` \(.*rate: 0.3 -> n"),
        (("{rate: 0.3}", "{rate: 0.1}"), "another `label_noise` .*0.3 -> 0.1"),
        (("seed: 1", "seed: 1\ndev_label_noise: {rate: 1}"), "another `dev_la"),
        (("{kind: A}", "null"), r"another `label_filter` \(.*kind: A -> "),
        (("{kind: A}", "{kind: B}"), "another `label_filter` .*A -> B"),
    ],
)
def test_what_a_resumed_run_cannot_change_is_refused(tmp_path, change, said):
    saved = tmp_path / "CKPT+1" / "recipe.ckpt"
    saved.parent.mkdir()
    text = "seed: 1\nrate: 0.1\nspeeds: [1.0]\nopt_class: !new:x.Adam {}\n"
    text += "embedding_model: !new:x.Y\n  channels: 4\n"
    text += "label_noise: {rate: 0.3}\nlabel_filter: {kind: A}\n"
    text += "dev_speakers: 4\ndev_trials: 40\n"
    RecipeText(text)._save(saved)
    require_resumable(tmp_path, text.replace("rate: 0.1", "rate: 0.2"))
    require_resumable(tmp_path, text + "dev_label_noise: null\n")
    require_resumable(tmp_path / "none", text)
    other = text.replace(*change)
    with pytest.raises(ValueError, match="was trained with " + said):
        require_resumable(tmp_path, other)
    saved.write_bytes(b"a: [\xff")  # damaged: said when it is loaded
    require_resumable(tmp_path, other)


def test_a_recipe_of_before_label_filters_resumes_without_one(tmp_path):
    saved = tmp_path / "CKPT+1" / "recipe.ckpt"
    saved.parent.mkdir()
    RecipeText("seed: 1\n")._save(saved)
    require_resumable(tmp_path, "seed: 1\nlabel_filter: null\n")
    require_resumable(tmp_path, "seed: 1\nlabel_filter:  # none\n")
    with pytest.raises(ValueError, match="another `label_filter`"):
        require_resumable(tmp_path, "seed: 1\nlabel_filter: {kind: A}\n")


def test_run_options_of_the_command_line_are_in_the_recipe(write):
    path = write("run.yaml", "precision: bf16\nmax_grad_norm: 1.0\n")
    argv = [str(path), "--precision=fp32"]
    recipe, run_opts, overrides = parse_command_line(argv, "train.py")
    keys = ["precision", "max_grad_norm"]
    hparams, text = load_recipe(recipe, overrides, keys, run_opts)
    assert hparams == {"precision": "fp32", "max_grad_norm": 1.0}
    assert "precision: fp32" in text
