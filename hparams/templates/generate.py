#!/usr/bin/env python3
"""Writes the recipes in hparams/ from the templates beside this script.

    python hparams/templates/generate.py           # or: make hparams
    python hparams/templates/generate.py --check   # changes nothing

Each recipe is a standalone file. It is made of a base file (training.yaml or
verification.yaml), whose keys it may replace: first by the parts that
recipes.yaml lists for it, then by the keys that recipes.yaml gives. A key is
replaced with its comments and everything below it. `without` drops keys that
nothing reads. A recipe's `small` entry makes a twin for two cores: the part
small.yaml comes after its parts, then the parts and `small_keys` of the entry.
"""

import argparse
import pathlib
import re
import sys
import textwrap

import ruamel.yaml

HERE = pathlib.Path(__file__).parent
KEY = re.compile(r"^([A-Za-z_]\w*):")
WIDTH = 76
MARK = "Written by `make hparams` from hparams/templates/."
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
        If a key occurs twice, a line belongs to no key, or a comment stands
        below the last key.
    """
    blocks, waiting, key = {}, [], None
    for line in text.splitlines():
        found = KEY.match(line)
        if found:
            key = found[1]
            if key in blocks:
                raise ValueError(f"The key '{key}' occurs twice.")
            blocks[key] = [*waiting, line]
            waiting = []
        elif key and line.startswith(" "):
            blocks[key] += [*waiting, line]
            waiting = []
        elif not line or line.startswith("#"):
            waiting.append(line)
        else:
            raise ValueError(f"This line belongs to no key: {line!r}")
    if any(waiting):
        raise ValueError(f"No key follows this comment: {waiting}")
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
    following = list(base)[list(base).index(key) + 1 :]
    heading = _heading(base.pop(key))
    if following and not _heading(base[following[0]]):
        base[following[0]] = heading + base[following[0]]


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
    for keys in (recipe.get("keys", ""), recipe.get("small_keys", "")):
        replace_blocks(blocks, read_blocks(keys), f"{name} in recipes.yaml")
    for key in recipe.get("without", []):
        drop_block(blocks, key)
    lines = [line for block in blocks.values() for line in block]
    body = "\n".join(line[1:] if _is_heading(line) else line for line in lines)
    body = body.replace("results/NAME/", f"results/{name}/")
    return f"{header(name, kind, recipe)}\n{body.strip()}\n"


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
    command = [f"  python {COMMANDS[kind]} hparams/{name}.yaml"]
    if len(command[0]) > WIDTH:
        command = [f"  python {COMMANDS[kind]}", f"      hparams/{name}.yaml"]
    folder = recipe.get("data_folder", "/data/VoxCeleb")
    for option in (f"--data_folder={folder}", *recipe.get("options", [])):
        command.append(f"      {option}")
    lines = [*_wrapped(recipe["title"]), ""]
    lines += [f"{line} \\" for line in command[:-1]] + command[-1:] + [""]
    nothing = recipe.get("published", "").startswith("nothing")
    if nothing and "held_out" in recipe:
        held_out = recipe["held_out"].replace(", as published,", ",")
        recipe = recipe | {"held_out": held_out}
    for label in ("data", "held_out", "published", "hardware", "note"):
        if label in recipe:
            name = label.capitalize().replace("_", " ")
            lines += _wrapped(f"{name}: {recipe[label]}")
    lines += ["", MARK]
    return "\n".join(f"# {line}".rstrip() for line in lines) + "\n"


def _wrapped(text):
    return textwrap.wrap(
        " ".join(text.split()),
        width=WIDTH,
        subsequent_indent="    " if ": " in text else "",
        break_on_hyphens=False,
    )


def read_recipes():
    """The entries of recipes.yaml, with a small twin for each that has one.

    Returns
    -------
    dict
        Maps names to entries.
    """
    table = ruamel.yaml.YAML(typ="safe").load(HERE / "recipes.yaml")
    defaults, recipes = table["defaults"], {}
    for name, entry in table["recipes"].items():
        small = entry.pop("small", None)
        recipes[name] = defaults[entry.get("base", "training")] | entry
        if small is not None:
            recipes[f"{name}_small"] = {
                **defaults["small"],
                "title": f"{entry['title'].rstrip('.')}, for two cores.",
                "keys": entry.get("keys", ""),
                "without": entry.get("without", []),
                **small,
                "parts": [
                    *entry.get("parts", []),
                    "small",
                    *small.get("parts", []),
                ],
            }
    return recipes


def compare(folder, texts):
    """Compares the recipes of a folder with what the templates make.

    Arguments
    ---------
    folder : pathlib.Path
        The folder of the recipes.
    texts : dict
        Maps names of files to their texts.

    Returns
    -------
    different : list of str
        Names of files that are missing or have another text.
    unknown : list of str
        Names of files that the templates do not make.
    """
    found = {path.name: path for path in sorted(folder.glob("*.yaml"))}
    different = [
        name
        for name, text in texts.items()
        if name not in found or found[name].read_text("utf-8") != text
    ]
    return different, [name for name in found if name not in texts]


def main(argv=None, folder=HERE.parent):
    """Writes all recipes, or checks that they are as the templates say.

    Arguments
    ---------
    argv : list of str
        The command line.
    folder : pathlib.Path
        The folder of the recipes.

    Returns
    -------
    int
        1 if something is left to do by hand, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(argv).check
    recipes = read_recipes()
    texts = {f"{name}.yaml": compose(name, recipes[name]) for name in recipes}
    different, unknown = compare(folder, texts)
    left = bool(unknown)
    for name in different:
        path = folder / name
        if check:
            print(f"{name} differs from its template. Run `make hparams`.")
            left = True
        elif path.exists() and MARK not in path.read_text("utf-8"):
            print(f"{name} was not written by `make hparams`. Move it away.")
            left = True
        else:
            print(f"{'rewrote' if path.exists() else 'wrote'} {name}")
            path.write_text(texts[name], "utf-8")
    for name in unknown:
        print(f"{name} has no entry in recipes.yaml. Add one or delete it.")
    return int(left)


if __name__ == "__main__":
    sys.exit(main())
