"""What is written twice must agree: recipes, YAMLs, commands and the CSV."""

import ast
import csv
import importlib
import inspect
import re
import shlex
from dataclasses import fields

import pytest
import ruamel.yaml
from conftest import RECIPE, ROOT
from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.nnet import losses
from speechbrain_ext.utils.recipe import compose_recipe

FRAGMENTS = {"small.yaml", "lm.yaml"}  # not recipes: others extend them
YAMLS = sorted((ROOT / "hparams").glob("*.yaml"))
RECIPES = [path for path in YAMLS if path.name not in FRAGMENTS]
CSV = ROOT / "tests" / "recipes" / "VoxCeleb.csv"
SCRIPTS = {
    "train": "train_speaker_embeddings.py",
    "verification": "speaker_verification_cosine.py",
}


def rows():
    """The rows of SpeechBrain's CSV of recipes."""
    with open(CSV, newline="") as file:
        return list(csv.DictReader(file))


def script_of(path):
    """The script that a YAML is for."""
    kind = "verification" if path.name.startswith("verification") else "train"
    return RECIPE / SCRIPTS[kind]


def keys_read(script):
    """The keys that a script says it reads, from its source."""
    for node in ast.parse(script.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "KEYS":
            return {
                leaf.value
                for leaf in ast.walk(node.value)
                if isinstance(leaf, ast.Constant)
            }
    raise AssertionError(f"{script} has no KEYS")


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


def tagged(node):
    """All nodes that a tag names a callable for, with it."""
    tag = getattr(getattr(node, "tag", None), "value", None) or ""
    if tag.startswith(("!new:", "!name:", "!apply:")):
        yield tag.split(":", 1)[1], node
    children = node.values() if isinstance(node, dict) else node
    if isinstance(node, (dict, list)):
        for child in children:
            yield from tagged(child)


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
        compose_recipe(path)["loss"].tag.value.rsplit(".", 1)[1]
        for path in RECIPES
        if script_of(path).name == SCRIPTS["train"]
    }
    assert named == set(losses.__all__)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["Hparam_file"])
def test_csv_rows_name_real_things(row):
    for key in ("Script_file", "Hparam_file", "Data_prep_file", "Readme_file"):
        assert (ROOT / row[key]).is_file(), row[key]
    recipe = compose_recipe(ROOT / row["Hparam_file"])
    for flag in shlex.split(row["test_debug_flags"]):
        key = flag.removeprefix("--").split("=")[0]
        assert key in recipe or key == "device", flag
    assert "file_exists=[" in row["test_debug_checks"]
    assert "performance_check=[" in row["test_debug_checks"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
class TestYaml:
    """What holds for every recipe's YAML."""

    def test_every_block_binds_to_its_signature(self, path):
        assert misfits(compose_recipe(path)) == []

    def test_every_key_is_read_and_every_read_key_is_there(self, path):
        recipe = compose_recipe(path)
        read = keys_read(script_of(path))
        assert read <= set(recipe)
        stream = ruamel.yaml.compat.StringIO()
        ruamel.yaml.YAML().dump(recipe, stream)
        referenced = set(re.findall(r"<([a-z_]+)", stream.getvalue()))
        own = {key for key in recipe if not key.startswith("__")}
        assert own <= read | referenced

    def test_output_folder_is_of_the_recipe_and_its_seed(self, path):
        folder = compose_recipe(path)["output_folder"]
        assert (folder.tag.value, folder.value) == (
            "!ref",
            f"results/{path.stem}/<seed>",
        )

    def test_header_says_how_to_start_it(self, path):
        header = path.read_text().split("\n\n")[0]
        lines = [line.lstrip("# ") for line in header.splitlines()]
        command = " ".join(lines)
        assert f"hparams/{path.name}" in command
        assert f"python {script_of(path).name}" in command


@pytest.mark.parametrize("name", sorted(SCRIPTS.values()))
def test_scripts_read_just_the_keys_that_they_name(name):
    script = RECIPE / name
    named, used = keys_read(script), keys_used(script)
    assert used <= named
    # what is left SpeechBrain's Brain reads by itself
    assert named - used <= {option.name for option in fields(RunOptions)}


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
        *YAMLS,
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
