"""What is written twice must agree: recipes, YAMLs, commands and the CSV."""

import ast
import csv
import functools
import importlib
import inspect
import re
import shlex
import shutil
from dataclasses import fields

import pytest
import ruamel.yaml
from conftest import RECIPE, ROOT
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.nnet import losses
from speechbrain_ext.utils.recipe import load_recipe, read_recipe

RECIPES = sorted((ROOT / "hparams").glob("*.yaml"))
CSV = ROOT / "tests" / "recipes" / "VoxCeleb.csv"
SCRIPTS = {
    "train": "train_speaker_embeddings.py",
    "verification": "speaker_verification_cosine.py",
}


recipe_of = functools.cache(read_recipe)  # no test changes one


def rows():
    """The rows of SpeechBrain's CSV of recipes."""
    with open(CSV, newline="") as file:
        return list(csv.DictReader(file))


def script_of(path):
    """The script that a YAML is for."""
    kind = "verification" if path.name.startswith("verification") else "train"
    return RECIPE / SCRIPTS[kind]


@functools.cache
def keys_read(script):
    """The keys that a script says it reads, from its source."""
    for node in ast.parse(script.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "KEYS":
            return {
                key
                for leaf in ast.walk(node.value)
                if isinstance(leaf, ast.Constant)
                for key in leaf.value.split()
            }
    raise AssertionError(f"{script} has no KEYS")


@functools.cache
def modules_used(script):
    """The modules of the Brain that a script's code uses."""
    return {
        node.attr
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Attribute)
        and getattr(node.value, "attr", "") == "modules"
        and node.attr not in ("eval", "train", "parameters")
    }


def nodes(tree):
    """A YAML's tree and all that is in it, tags included."""
    yield tree
    if isinstance(tree, (dict, list)):
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from nodes(child)


def tag_and_value(node):
    """The tag of a node and the text behind it, both perhaps empty."""
    tag = getattr(getattr(node, "tag", None), "value", None) or ""
    return tag, getattr(node, "value", "")


def referenced(recipe):
    """The keys that other keys of a recipe refer to."""
    found = set()
    for node in nodes(recipe):
        tag, text = tag_and_value(node)
        if tag in ("!ref", "!copy"):
            found |= set(re.findall(r"<([A-Za-z_]\w*)", text))
    return found


def faults(recipe, read, used_modules):
    """What breaks the rules of SpeechBrain's tests/utils/check_yaml.py.

    Every key is used, every key that the script reads is there, and the
    modules that the Brain uses are in the block of that name.
    """
    own = {key for key in recipe if not key.startswith("__")}
    found = [f"{key} is not used" for key in own - read - referenced(recipe)]
    found += [f"{key} is missing" for key in read - own]
    # the script adds it, as wide as the data has classes
    modules = {*recipe.get("modules", {}), "classifier"}
    found += [f"modules.{key} is missing" for key in used_modules - modules]
    return sorted(found)


def keys_used(script):
    """The keys that a script's code does read."""
    found = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Subscript):
            name = getattr(node.value, "id", getattr(node.value, "attr", ""))
            if name == "hparams" and isinstance(node.slice, ast.Constant):
                found.add(node.slice.value)
        elif isinstance(node, ast.Attribute):
            if getattr(node.value, "attr", "") == "hparams":
                found.add(node.attr)
    return found


def tagged(tree):
    """All nodes that a tag names a callable for, with it."""
    for node in nodes(tree):
        tag, _ = tag_and_value(node)
        if tag.startswith(("!new:", "!name:", "!apply:")):
            yield tag.split(":", 1)[1], node


def misfits(recipe):
    """What in a recipe does not bind to the signature of what it names."""
    found = []
    for name, node in tagged(recipe):
        module, attribute = name.rsplit(".", 1)
        try:
            target = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            found.append(f"{name} does not exist")
            continue
        if isinstance(node, dict):
            parameters = inspect.signature(target).parameters
            taken = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
            for key in node:
                if key not in parameters and not taken:
                    found.append(f"{name} takes no {key}")
    return found


def test_there_are_recipes():
    assert len(RECIPES) >= 8
    assert (RECIPE / "hparams").resolve() == ROOT / "hparams"


def test_csv_and_recipes_agree_in_both_directions():
    listed = [row["Hparam_file"].rsplit("/", 1)[1] for row in rows()]
    assert sorted(listed) == [path.name for path in RECIPES]


def test_every_loss_has_a_recipe():
    named = {
        recipe_of(path)["loss"].tag.value.rsplit(".", 1)[1]
        for path in RECIPES
        if script_of(path).name == SCRIPTS["train"]
    }
    assert named == set(losses.__all__)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["Hparam_file"])
def test_csv_rows_name_real_things(row):
    for key in ("Script_file", "Hparam_file", "Data_prep_file", "Readme_file"):
        assert (ROOT / row[key]).is_file(), row[key]
    recipe = recipe_of(ROOT / row["Hparam_file"])
    for flag in shlex.split(row["test_debug_flags"]):
        key = flag.removeprefix("--").split("=")[0]
        assert key in recipe or key == "device", flag
    assert "file_exists=[" in row["test_debug_checks"]
    assert "performance_check=[" in row["test_debug_checks"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
class TestYaml:
    """What holds for every recipe's YAML."""

    def test_every_block_binds_to_its_signature(self, path):
        assert misfits(recipe_of(path)) == []

    def test_rules_of_speechbrain_hold(self, path):
        script = script_of(path)
        found = faults(recipe_of(path), keys_read(script), modules_used(script))
        assert found == []

    def test_hyperpyyaml_alone_builds_it(self, path, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # the logger makes its folder
        with open(path) as file:
            hparams = load_hyperpyyaml(file, {"data_folder": "x"})
        assert hparams["data_folder"] == "x"
        keys = {key for key in recipe_of(path) if not key.startswith("__")}
        assert set(hparams) == keys

    def test_output_folder_is_of_the_recipe_and_its_seed(self, path):
        folder = recipe_of(path)["output_folder"]
        assert (folder.tag.value, folder.value) == (
            "!ref",
            f"results/{path.stem}/<seed>",
        )

    def test_header_says_how_to_start_it(self, path):
        header = path.read_text().split("\n\n")[0]
        lines = [line.lstrip("# ") for line in header.splitlines()]
        command = " ".join(lines)
        assert f" hparams/{path.name}" in command.replace("\\", " ")
        for word in ("Data:", "Hardware:"):
            assert word in command
        if "verification" not in path.name:
            assert "Published:" in command
        assert f"python {script_of(path).name}" in command


@pytest.mark.parametrize("name", ["resnet_aam", "verification_resnet_small"])
def test_a_recipe_copied_alone_loads(name, tmp_path, monkeypatch):
    """tests/integration/test_recipes_csv.py starts every one so."""
    monkeypatch.chdir(tmp_path)
    source = ROOT / "hparams" / f"{name}.yaml"
    path = shutil.copy(source, tmp_path)
    keys = keys_read(script_of(source))
    hparams, text = load_recipe(path, "data_folder: x", keys)
    assert hparams["data_folder"] == "x"
    assert load_hyperpyyaml(text).keys() == hparams.keys()


@pytest.mark.parametrize("name", sorted(SCRIPTS.values()))
def test_scripts_read_just_the_keys_that_they_name(name):
    script = RECIPE / name
    named, used = keys_read(script), keys_used(script)
    assert used <= named
    # what is left SpeechBrain's Brain reads by itself
    assert named - used <= {option.name for option in fields(RunOptions)}


def test_rules_fail_on_a_broken_sample():
    broken = ruamel.yaml.YAML().load(
        "__seed: 1\n"
        "a: 1  # not <b>\n"
        "b: 2\n"
        "c: !new:x.Y\n    d: [!ref <a>/2]\n"
        "modules: {f: !ref <c>}\n"
    )
    assert faults(broken, {"e", "modules"}, {"f", "g"}) == [
        "b is not used",
        "e is missing",
        "modules.g is missing",
    ]


def test_binding_check_fails_on_a_broken_sample():
    broken = ruamel.yaml.YAML().load(
        "a: !new:speechbrain_ext.nnet.losses.SphereFace2\n"
        "    marign: 0.2\n"
        "b: [!name:speechbrain_ext.nnet.losses.SphereFace3 {}]\n"
    )
    assert misfits(broken) == [
        "speechbrain_ext.nnet.losses.SphereFace2 takes no marign",
        "speechbrain_ext.nnet.losses.SphereFace3 does not exist",
    ]


@pytest.mark.parametrize(
    "path",
    [
        *ROOT.glob("*.md"),
        *RECIPE.glob("*.md"),
        *RECIPE.glob("*.py"),
        *RECIPES,
    ],
    ids=lambda path: path.name,
)
def test_commands_name_real_files(path):
    text = path.read_text().replace("\\\n#", " ").replace("\\\n", " ")
    for words in re.findall(r"python3? (\S+\.py)((?: +\S+)*)", text):
        script, rest = words
        name = script.split("/")[-1]
        places = [ROOT / script, RECIPE / script, path.parent / script]
        assert any(place.is_file() for place in places), script
        for yaml in re.findall(r"(\S*hparams/\S+\.yaml)", rest):
            assert (RECIPE / yaml).is_file() or (ROOT / yaml).is_file(), yaml
            assert script_of(RECIPE / yaml).name == name
