#!/usr/bin/env python3
"""Writes the recipes in hparams/ from the templates beside this script.

    python hparams/templates/generate.py           # or: make hparams
    python hparams/templates/generate.py --check   # changes nothing

Each recipe is a standalone file. It is made of a base file (training.yaml or
verification.yaml), whose keys it may replace: first by the parts that
recipes.yaml lists for it, then by the keys that recipes.yaml gives. A key is
replaced with its comments and everything below it. `without` drops keys that
nothing reads.
"""

import argparse
import pathlib
import re
import sys
import textwrap

import ruamel.yaml

HERE = pathlib.Path(__file__).parent
KEY = re.compile(r"^([A-Za-z_]\w*):")
COMMANDS = {
    "training": "train_speaker_embeddings.py",
    "verification": "speaker_verification_cosine.py",
}


def read_blocks(text):
    """Splits a YAML text at its top-level keys.

    A block is a key's line, the lines below it that are indented, and the
    comment directly above it.

    Arguments
    ---------
    text : str
        The YAML text.

    Returns
    -------
    dict
        Maps each key to its block. Empty lines and section comments that
        stand apart belong to the next key's block.

    Raises
    ------
    ValueError
        If a key stands there twice.
    """
    blocks, waiting = {}, []
    key = None
    for line in text.splitlines():
        found = KEY.match(line)
        if found:
            key = found[1]
            if key in blocks:
                raise ValueError(f"The key '{key}' stands there twice.")
            blocks[key] = [*waiting, line]
            waiting = []
        elif key and line.startswith((" ", "\t")):
            blocks[key] += [*waiting, line]
            waiting = []
        else:
            waiting.append(line)
    return blocks


def replace_blocks(base, changes, source):
    """Replaces blocks of a base in place, under the headings that they have.

    Arguments
    ---------
    base : dict
        Blocks of the base, as ``read_blocks`` gives them.
    changes : dict
        Blocks that take the place of those of the same key.
    source : str
        Where the changes come from, for errors.

    Raises
    ------
    ValueError
        If the base lacks a key.
    """
    for key, block in changes.items():
        if key not in base:
            raise ValueError(f"{source} sets '{key}', which the base lacks.")
        own = [line for line in block if line and not _is_heading(line)]
        base[key] = _heading(base[key]) + own


def drop_block(base, key):
    """Drops a block; a heading above it moves to the next one.

    Arguments
    ---------
    base : dict
        Blocks of the base, changed in place.
    key : str
        The key.

    Raises
    ------
    ValueError
        If the base lacks the key.
    """
    if key not in base:
        raise ValueError(f"`without` names '{key}', which the base lacks.")
    keys = list(base)
    following = keys[keys.index(key) + 1]
    heading = _heading(base.pop(key))
    if any(map(_is_heading, heading)) and not _heading(base[following]):
        base[following] = heading + base[following]


def _is_heading(line):
    return line.startswith("## ")


def _heading(block):
    """The empty lines and the heading that a block begins with."""
    count = 0
    while not block[count] or _is_heading(block[count]):
        count += 1
    return block[:count]


def compose(name, recipe):
    """Makes the text of one recipe.

    Arguments
    ---------
    name : str
        Its name, without ``.yaml``.
    recipe : dict
        Its entry in recipes.yaml.

    Returns
    -------
    str
        The text of the file.
    """
    kind = recipe.get("base", "training")
    blocks = read_blocks((HERE / f"{kind}.yaml").read_text("utf-8"))
    for part in recipe.get("parts", []):
        path = HERE / "parts" / f"{part}.yaml"
        replace_blocks(blocks, read_blocks(path.read_text("utf-8")), path.name)
    own = read_blocks(recipe.get("keys", ""))
    replace_blocks(blocks, own, f"{name} in recipes.yaml")
    for key in recipe.get("without", []):
        drop_block(blocks, key)
    lines = [line for block in blocks.values() for line in block]
    body = "\n".join(line[1:] if _is_heading(line) else line for line in lines)
    return f"{header(name, kind, recipe)}\n{body.strip()}\n".replace("NAME", name)


def header(name, kind, recipe):
    """The comment that a recipe begins with.

    Arguments
    ---------
    name : str
        Its name.
    kind : str
        Its base.
    recipe : dict
        Its entry in recipes.yaml.

    Returns
    -------
    str
        Lines that begin with ``#``.
    """
    command = f"  python {COMMANDS[kind]} hparams/{name}.yaml"
    options = ["--data_folder=/data/VoxCeleb", *recipe.get("options", [])]
    lines = [*_wrapped(recipe["title"]), ""]
    lines += [
        f"{command} \\",
        *(f"      {option} \\" for option in options[:-1]),
        f"      {options[-1]}",
    ]
    for label in ("data", "published", "hardware", "note"):
        if label in recipe:
            lines += ["", *_wrapped(f"{label.capitalize()}: {recipe[label]}")]
    lines += ["", "Written by `make hparams` from hparams/templates/."]
    return "\n".join(f"# {line}".rstrip() for line in lines) + "\n"


def _wrapped(text):
    return textwrap.wrap(
        " ".join(text.split()), width=77, break_on_hyphens=False
    )


def read_recipes():
    """The entries of recipes.yaml, with a small twin for each that has one.

    Returns
    -------
    dict
        Maps names to entries.
    """
    table = ruamel.yaml.YAML(typ="safe").load(HERE / "recipes.yaml")
    recipes = {}
    for name, entry in table["recipes"].items():
        small = entry.pop("small", None)
        recipes[name] = {**table["defaults"][entry.get("base", "training")]}
        recipes[name] |= entry
        if small is not None:
            twin = {**table["defaults"]["small"], "base": "training"}
            twin["title"] = f"{entry['title'].rstrip('.')}: small, for two cores."
            twin["parts"] = [*entry.get("parts", []), "small"]
            twin["keys"] = entry.get("keys", "") + (small.get("keys") or "")
            twin["without"] = entry.get("without", [])
            recipes[f"{name}_small"] = twin
    return recipes


def main(argv=None):
    """Writes all recipes, or checks that they are as the templates say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(argv).check
    made = {f"{n}.yaml": compose(n, r) for n, r in read_recipes().items()}
    folder = HERE.parent
    different = [
        name
        for name, text in made.items()
        if not (folder / name).is_file()
        or (folder / name).read_text("utf-8") != text
    ]
    strange = sorted({p.name for p in folder.glob("*.yaml")} - set(made))
    if check:
        for name in different:
            print(f"{name} differs from its template: run `make hparams`.")
        for name in strange:
            print(f"{name} has no entry in recipes.yaml.")
        return int(bool(different or strange))
    for name in different:
        (folder / name).write_text(made[name], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
