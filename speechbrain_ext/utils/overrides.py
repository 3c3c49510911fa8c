"""Command-line overrides of a recipe's values."""

import difflib
import io
import re

import ruamel.yaml
from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.utils.values import RULES, check_value, tag_of
from speechbrain_ext.utils.yaml_files import parse_yaml

COMMAND_LINE = "The command line"


def apply_overrides(recipe, overrides, path):
    """Applies the overrides of the command line to a recipe.

    Arguments
    ---------
    recipe : ruamel.yaml.comments.CommentedMap
        The recipe with unresolved references; it is changed in place.
    overrides : str
        The overrides as YAML, from ``parse_command_line``.
    path : str
        Path of the recipe, for error messages.

    Returns
    -------
    list of str
        The keys of the overrides.

    Raises
    ------
    ValueError
        If a key is unknown or a value is not valid.

    Example
    -------
    >>> recipe = {"seed": 1, "opts": {"workers": 2, "pin": True}}
    >>> apply_overrides(recipe, "opts: {workers: 0}", "x.yaml")
    ['opts']
    >>> recipe
    {'seed': 1, 'opts': {'workers': 0, 'pin': True}}
    """
    if not overrides:
        return []
    changes = parse_yaml(overrides, COMMAND_LINE)
    if not isinstance(changes, dict):
        raise ValueError(
            f"{COMMAND_LINE} must have --key=value, got {overrides!r}."
        )
    node = ruamel.yaml.YAML().compose(io.StringIO(overrides))
    written = {  # unquoted values as written: 007 may be a folder's name
        key.value: value.value
        for key, value in node.value
        if isinstance(value, ruamel.yaml.ScalarNode) and not value.style
    }
    for key, new in changes.items():
        check_known(key, recipe, COMMAND_LINE)
        own, raw = recipe[key], written.get(key)
        if raw == "" and not tag_of(new):
            if not isinstance(own, bool):
                raise ValueError(
                    f"--{key} has no value; write --{key}=value, or "
                    f"--{key}=null for none."
                )
            new, raw = True, None
        if key in RULES or not isinstance(new, dict):
            remedy = "" if tag_of(own) else f"{path} has {own!r}"[:160]
            new = check_value(key, new, own, raw, remedy)
        recipe[key] = changed(own, new, key, recipe)
    return list(changes)


def changed(old, new, name, known=None):
    """Merges a new value into an old one, or replaces the old one.

    A new block without a tag changes single keys of the old block. An old
    block without a tag accepts only the keys that it has. An old block that is
    empty, or that has a tag, accepts any key. Every other new value, such as a
    block with a tag, replaces the old one.

    Arguments
    ---------
    old : object
        The old value.
    new : object
        The value from the command line.
    name : str
        The key, for error messages.
    known : dict
        Keys and values of the recipe, for an old value that is a reference.

    Returns
    -------
    object
        The new value. An old block that is changed is changed in place.

    Raises
    ------
    ValueError
        If a key is unknown or a value is not valid.

    Example
    -------
    >>> changed({"a": 1, "b": 2}, {"b": 3}, "opts")
    {'a': 1, 'b': 3}
    """
    if tag_of(new) or not isinstance(new, dict) or not isinstance(old, dict):
        reference = tag_of(old) == "!ref" and old.value.strip("<>")
        return check_value(name, new, (known or {}).get(reference, old))
    # the object that a tag builds checks its own keys
    closed = bool(old) and not tag_of(old)
    for key in new:
        if closed:
            check_known(key, old, COMMAND_LINE)
        old[key] = changed(old.get(key), new[key], f"{name}.{key}", known)
    return old


def check_known(key, known, source):
    """Raises if a key is unknown.

    Arguments
    ---------
    key : str
        The key.
    known : iterable of str
        The valid keys.
    source : str
        Where the key is written, for the error message.

    Raises
    ------
    ValueError
        If the key is unknown. The message suggests similar ones.

    Example
    -------
    >>> check_known("sizes", ["size"], "x.yaml")
    Traceback (most recent call last):
    ValueError: x.yaml has an unknown key 'sizes'; did you mean 'size'?
    """
    if key not in known:
        likely = _similar(str(key), known, source == COMMAND_LINE)
        hint = f"; did you mean {' or '.join(likely)}?" if likely else "."
        raise ValueError(f"{source} has an unknown key '{key}'{hint}")


def _similar(key, known, of_command_line):
    """Up to three keys, in quotes, that another one may stand for."""
    names = [*map(str, known)]
    if of_command_line and key.lower() in ("gpu", "gpus", "cuda"):
        return ["--device=cuda:0"]
    words = re.split("[-_]", key.lower())
    initials = "".join(word[:1] for word in words)
    for wanted in (set(words), {initials}):  # epochs; learning_rate: lr
        found = [f"'{n}'" for n in names if wanted <= set(n.split("_"))]
        if found:
            return found[:3]
    if of_command_line:
        blocks = known if isinstance(known, dict) else {}
        for name, block in blocks.items():
            if isinstance(block, dict) and key in block:
                return [f"'{key}' in '{name}'"]
        names += RunOptions().as_dict()
    close = difflib.get_close_matches(key, names, n=1)
    return [f"'{name}'" for name in close]
