"""Values of the command line take the place of a recipe's, key by key."""

import difflib
import io

import ruamel.yaml
from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.utils.values import RULES, check_value, tag_of
from speechbrain_ext.utils.yaml_files import parse_yaml

COMMAND_LINE = "The command line"


def apply_overrides(recipe, overrides, path):
    """Puts the command line's values into a recipe.

    Arguments
    ---------
    recipe : ruamel.yaml.comments.CommentedMap
        The recipe as read, nothing resolved; changed in place.
    overrides : str
        The values as YAML, as ``parse_command_line`` gives them.
    path : str
        The recipe's file, for errors.

    Returns
    -------
    list of str
        The keys that were given.

    Raises
    ------
    ValueError
        If a key is unknown or a value does not fit.

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
    written = {  # without quotes: 007 may be a folder's name
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
    """Changes a block key by key, or replaces it.

    A block without a tag changes single keys of the old block. An empty old
    block takes any key, and one with a tag takes those that it can be built
    of. Everything else, such as a block with a tag, replaces the old value.

    Arguments
    ---------
    old : object
        The block, or another value.
    new : object
        The value of the command line.
    name : str
        The key, for errors.
    known : dict
        The recipe's keys, to which an old value may refer.

    Returns
    -------
    object
        The new value; a block that was changed is the old one's object.

    Raises
    ------
    ValueError
        If a key is unknown or a value does not fit.

    Example
    -------
    >>> changed({"a": 1, "b": 2}, {"b": 3}, "opts")
    {'a': 1, 'b': 3}
    """
    if tag_of(new) or not isinstance(new, dict) or not isinstance(old, dict):
        reference = tag_of(old) == "!ref" and old.value.strip("<>")
        return check_value(name, new, (known or {}).get(reference, old))
    # what a tag builds knows its own keys; an empty block takes any
    closed = bool(old) and not tag_of(old)
    for key in new:
        if closed:
            check_known(key, old, COMMAND_LINE)
        old[key] = changed(old.get(key), new[key], f"{name}.{key}", known)
    return old


def check_known(key, known, source):
    """Raises where a key is unknown.

    Arguments
    ---------
    key : str
        The key.
    known : iterable of str
        The keys that there are.
    source : str
        Where the key is written, for the error.

    Raises
    ------
    ValueError
        If it is unknown; a key like it is named.

    Example
    -------
    >>> check_known("sizes", ["size"], "x.yaml")
    Traceback (most recent call last):
    ValueError: x.yaml has an unknown key 'sizes'; did you mean 'size'?
    """
    if key not in known:
        names = [*map(str, known)]
        if source == COMMAND_LINE:
            names += RunOptions().as_dict()
        close = difflib.get_close_matches(str(key), names, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        raise ValueError(f"{source} has an unknown key '{key}'{hint}")
