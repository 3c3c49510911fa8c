"""The recipes in hparams/ are what their templates make of them."""

import importlib.util

import pytest
from conftest import ROOT

TEMPLATES = ROOT / "hparams" / "templates"


@pytest.fixture(scope="module")
def generate():
    """The generator, a script that is no module of the package."""
    spec = importlib.util.spec_from_file_location(
        "generate", TEMPLATES / "generate.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(generate, tmp_path):
    """A folder with all recipes, as they are written."""
    assert generate.main([], tmp_path) == 0
    return tmp_path


BASE = """\
a: 1

## First
b: 2      # two
c:
    d: 3

## Second
# about e
e: 4
f: 5
"""


def joined(blocks):
    """The text of blocks."""
    return "\n".join(line for block in blocks.values() for line in block) + "\n"


def test_recipes_are_what_their_templates_say(generate, capsys):
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


def test_every_part_is_used(generate):
    used = {
        part
        for recipe in generate.read_recipes().values()
        for part in recipe.get("parts", [])
    }
    assert used == {path.stem for path in (TEMPLATES / "parts").iterdir()}


def test_check_finds_what_differs(generate, folder, capsys):
    with open(folder / "resnet_aam.yaml", "a") as file:
        file.write("# by hand\n")
    (folder / "resnet_am.yaml").unlink()
    (folder / "mine.yaml").write_text("seed: 1\n")
    capsys.readouterr()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert generate.main(["--check"], folder) == 1
    assert capsys.readouterr().out.splitlines() == [
        "resnet_aam.yaml differs from its template. Run `make hparams`.",
        "resnet_am.yaml differs from its template. Run `make hparams`.",
        "mine.yaml has no entry in recipes.yaml. Add one or delete it.",
    ]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_what_is_written_is_said_and_nothing_else_is_touched(
    generate, folder, capsys
):
    assert generate.main([], folder) == 0
    edited, own = folder / "resnet_aam.yaml", folder / "resnet_am.yaml"
    whole = edited.read_text()
    edited.write_text(whole + "# by hand\n")
    own.write_text("seed: 1\n")  # a user's file of that name
    (folder / "resnet_ge2e.yaml").unlink()
    capsys.readouterr()
    assert generate.main([], folder) == 1
    assert capsys.readouterr().out.splitlines() == [
        "rewrote resnet_aam.yaml",
        "resnet_am.yaml was not written by `make hparams`. Move it away.",
        "wrote resnet_ge2e.yaml",
    ]
    assert edited.read_text() == whole
    assert own.read_text() == "seed: 1\n"


def test_blocks_of_a_text_are_its_keys_with_comments(generate):
    blocks = generate.read_blocks(BASE)
    assert list(blocks) == list("abcef")
    assert blocks["c"] == ["c:", "    d: 3"]
    assert blocks["e"] == ["", "## Second", "# about e", "e: 4"]
    assert joined(blocks) == BASE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "'a' occurs twice"),
        ("a: 1\n- b\n", "belongs to no key: '- b'"),
        ("a: 1\n# no key\n", "No key follows"),
    ],
)
def test_a_text_that_cannot_be_split_is_refused(generate, text, said):
    with pytest.raises(ValueError, match=said):
        generate.read_blocks(text)


def test_a_block_is_replaced_below_its_heading(generate):
    blocks = generate.read_blocks(BASE)
    changes = generate.read_blocks("# new\ne:\n    g: 6\n\n## Own\nb: 7\n")
    generate.replace_blocks(blocks, changes, "part.yaml")
    changed = BASE.replace("# about e\ne: 4", "# new\ne:\n    g: 6")
    assert joined(blocks) == changed.replace("b: 2      # two", "b: 7")
    with pytest.raises(ValueError, match="part.yaml sets 'h'"):
        generate.replace_blocks(blocks, {"h": ["h: 1"]}, "part.yaml")


def test_a_dropped_block_leaves_its_heading_to_the_next(generate):
    blocks = generate.read_blocks(BASE)
    for key in "bef":
        generate.drop_block(blocks, key)
    assert joined(blocks) == "a: 1\n\n## First\nc:\n    d: 3\n"
    with pytest.raises(ValueError, match="`without` names 'b'"):
        generate.drop_block(blocks, "b")


def test_a_twin_for_two_cores_has_the_settings_of_its_recipe(generate):
    recipes = generate.read_recipes()
    twin = generate.compose(
        "resnet_am_small", recipes["resnet_am_small"]
    ).splitlines()
    assert "channels: 8                 # of the first stage" in twin
    assert "final_margin: 0.2           # a difference of cosines" in twin
    assert "output_folder: !ref results/resnet_am_small/<seed>" in twin


def test_twins_for_two_cores_start_no_worker(generate):
    recipes = generate.read_recipes()
    twins = [
        name
        for name, recipe in recipes.items()
        if "small" in recipe.get("parts", [])
    ]
    assert len(twins) > 15
    for name in twins:
        text = generate.compose(name, recipes[name])
        assert "train_dataloader_opts:\n    num_workers: 0 " in text, name
