"""docs/protocols.md: "ours" is what the recipes hold, and "equal" is true."""

import fnmatch
import math
import re
from typing import NamedTuple

import pytest
import ruamel.yaml
from conftest import ROOT
from hyperpyyaml import resolve_references

PAGE = (ROOT / "docs" / "protocols.md").read_text("utf-8")
RECIPES = sorted(
    path.stem
    for path in (ROOT / "hparams").glob("*.yaml")
    if not path.stem.endswith("_small")
)
# what a row of each training recipe must be about
KEYS = {
    *("dev_speakers", "n_mels", "embedding_model", "embedding_size"),
    *("number_of_epochs", "batch_size", "sentence_len", "speeds"),
    *("augment_probability", "augment.snr", "augment.babble"),
    *("max_grad_norm", "select", "average_checkpoints", "opt_class"),
    *("weight_decay", "lr_schedule", "initial_lr", "loss", "final_margin"),
}
ARITHMETIC = re.compile(r"[\d.\s*/+()-]+")


class Row(NamedTuple):
    """A row of one of the tables, for the recipes that it means."""

    recipes: list
    key: str
    ours: str
    published: str
    verdict: str
    source: str


def named(cell, section):
    """The recipes of a section that a cell means."""
    patterns = re.findall(r"`([^`]+)`", cell)
    found = [
        recipe
        for recipe in section
        if any(fnmatch.fnmatch(recipe, pattern) for pattern in patterns)
    ]
    if cell == "all":
        return list(section)
    if cell.startswith("all but "):
        return [recipe for recipe in section if recipe not in found]
    return found


def rows(page):
    """The rows of all sections that name recipes."""
    found = []
    for section in page.split("\n## ")[1:]:
        listed = re.search(r"^Recipes: (.*?)\n\n", section, re.M | re.S)
        if listed is None:
            continue
        recipes = re.findall(r"`([^`]+)`", listed[1])
        for line in section.splitlines():
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            if len(cells) == 6 and cells[1].startswith("`"):
                found.append(Row(named(cells[0], recipes), *cells[1:]))
    return found


def parse(text):
    """A value in code marks: YAML, or arithmetic; None for prose."""
    code = re.fullmatch(r"`([^`]+)`", text)
    if code is None:
        return None
    if ARITHMETIC.fullmatch(code[1]):
        return eval(code[1], {"__builtins__": {}})
    return ruamel.yaml.YAML(typ="safe").load(code[1])


def held(tree, key):
    """The value of a key in a recipe; of what a tag names, its last name."""
    for part in key.split("."):
        tree = tree[part]
    tag = getattr(getattr(tree, "tag", None), "value", None)
    return tag.rsplit(".", 1)[1] if tag else tree


def same(one, other):
    """Whether two values are the same, numbers but for rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            same(one[key], other[key]) for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    numbers = (int, float)
    if isinstance(one, bool) or not isinstance(one, numbers):
        return type(one) is type(other) and one == other
    return isinstance(other, numbers) and math.isclose(
        one, other, rel_tol=1e-12
    )


def faults(row, trees):
    """What is wrong with a row."""
    key, found = row.key.strip("`"), []
    if not row.recipes:
        found.append(f"no recipe is named in the row of {key}")
    for recipe in row.recipes:
        try:
            value = held(trees[recipe], key)
        except KeyError:
            found.append(f"{recipe} has no {key}")
            continue
        if not same(plain(value), parse(row.ours)):
            found.append(f"{recipe} has {key}: {value}, not {row.ours}")
    said = row.verdict.startswith("equal")
    if row.published.startswith("`"):
        if same(parse(row.published), parse(row.ours)) != said:
            found.append(
                f"{key}: {row.ours} and {row.published} are "
                f"{'not ' if said else ''}equal"
            )
    elif row.verdict in ("", "equal"):  # prose: say how, or why not
        found.append(f"{key}: nothing says how it is equal, or why not")
    if said and not row.source:
        found.append(f"{key}: no source")
    return found


def plain(value):
    """A value of a recipe without what keeps comments."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


@pytest.fixture(scope="module")
def trees():
    """The recipes, references resolved and nothing built."""
    found = {}
    for recipe in RECIPES:
        with open(ROOT / "hparams" / f"{recipe}.yaml") as file:
            text = resolve_references(file, {"data_folder": "x"})
        found[recipe] = ruamel.yaml.YAML().load(text)
    return found


def test_ours_is_what_the_recipes_hold(trees):
    table = rows(PAGE)
    assert len(table) > 150
    assert [fault for row in table for fault in faults(row, trees)] == []


def test_every_recipe_has_a_row_for_every_key():
    table = rows(PAGE)
    for recipe in RECIPES:
        keys = {row.key.strip("`") for row in table if recipe in row.recipes}
        wanted = KEYS if "verification" not in recipe else {"scorings", "top_n"}
        assert wanted <= keys, (recipe, sorted(wanted - keys))


def test_quoted_error_rates_are_not_ours():
    for recipe in RECIPES:
        path = ROOT / "hparams" / f"{recipe}.yaml"
        header = path.read_text("utf-8").split("\n\n")[0]
        header = " ".join(line.lstrip("# ") for line in header.splitlines())
        if re.search(r"EER \d", header):
            assert "Not reproduced here." in header, recipe
            assert "by cosine," not in header, recipe  # say which mean


BROKEN = """
## A section

Recipes: `resnet_aam`, `resnet_am`

| recipes | key | ours | published | equal? | source |
|---|---|---|---|---|---|
| all | `batch_size` | `256` | `2 * 128` | equal | x |
| all | `batch_size` | `256` | `2 * 64` | equal | x |
| all but `resnet_am` | `loss` | `AMSoftmax` | none | a reason | |
| `resnet_a?` | `speeds` | `[1.0, 0.9]` | `[1.0, 0.9]` | equal | x |
| `resnet_x` | `no_such_key` | `1` | `1` | equal | x |
| all | `no_such_key` | `1` | none |  | |
| all | `dither` | `1.0` | a prose | equal | x |
| all | `dither` | `1.0` | `1` | a reason | x |
| all | `seed` | `42` | `42` | equal | |
"""


def test_faults_are_found_in_a_broken_page(trees):
    found = [faults(row, trees) for row in rows(BROKEN)]
    assert found == [
        [],
        ["batch_size: `256` and `2 * 64` are not equal"],
        ["resnet_aam has loss: AAMSoftmax, not `AMSoftmax`"],
        ["resnet_am has speeds: [1.0, 0.9, 1.1], not `[1.0, 0.9]`"],
        ["no recipe is named in the row of no_such_key"],
        [
            "resnet_aam has no no_such_key",
            "resnet_am has no no_such_key",
            "no_such_key: nothing says how it is equal, or why not",
        ],
        ["dither: nothing says how it is equal, or why not"],
        ["dither: `1.0` and `1` are equal"],
        ["seed: no source"],
    ]
