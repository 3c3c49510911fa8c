"""Recipes that extend others: one YAML of all their keys."""

import difflib
import pathlib

from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.utils.values import check_value, tag_of
from speechbrain_ext.utils.yaml_files import read_yaml

COMMAND_LINE = "The command line"


def compose_recipe(path):
    """Reads a recipe with all that it extends.

    A recipe may begin with ``extends: other.yaml`` (or a list of files, the
    later ones having the last word, paths beside the recipe). Its own keys
    replace those of these files; a key that they lack is an error, since it
    would change nothing. A block without a tag changes single keys of the
    block that was there, as SpeechBrain's command line does (an empty one
    takes any, and one with a tag those that it can be built of); a block with a
    tag (``!new:...``) replaces it whole, and ``without: [key, ...]`` takes out
    what nothing uses any more.

    Arguments
    ---------
    path : str
        The recipe's YAML.

    Returns
    -------
    ruamel.yaml.comments.CommentedMap
        The keys with their tags, nothing resolved or built.

    Raises
    ------
    ValueError
        If a file is missing or not a YAML, extends itself, or has a key that
        it cannot have.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a.yaml").write_text("rate: 0.1\\nseed: 1\\n")
    >>> _ = (folder / "b.yaml").write_text("extends: a.yaml\\nrate: 0.2\\n")
    >>> dict(compose_recipe(folder / "b.yaml"))
    {'rate': 0.2, 'seed': 1}
    """
    first, *others = recipe_files(path)
    composed = read_yaml(first)
    for source in others:
        keys = read_yaml(source)
        dropped = keys.pop("without", [])
        keys.pop("extends", None)
        for key in keys:
            check_known(key, composed, source)
            composed[key] = changed(composed[key], keys[key], source)
        for key in [dropped] if isinstance(dropped, str) else dropped:
            check_known(key, composed, source)
            del composed[key]
    return composed


def recipe_files(path, above=()):
    """Lists the files of a recipe: what it extends, then its own.

    Arguments
    ---------
    path : str
        The recipe's YAML.
    above : tuple of pathlib.Path
        The files that extend this one.

    Returns
    -------
    list of pathlib.Path
        The files, the one with the last word last.

    Raises
    ------
    ValueError
        If one cannot be read, or extends itself.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.yaml"
    >>> _ = path.write_text("extends: a.yaml")
    >>> recipe_files(path)
    Traceback (most recent call last):
    ValueError: a.yaml extends a.yaml: a recipe cannot extend itself; ...
    """
    path = pathlib.Path(path)
    if path.resolve() in [other.resolve() for other in above]:
        circle = " extends ".join(other.name for other in (*above, path))
        raise ValueError(
            f"{circle}: a recipe cannot extend itself; take out one `extends`."
        )
    if above and not path.exists():
        raise ValueError(
            f"{path} does not exist, but {above[-1]} extends it; correct "
            "`extends`."
        )
    parents = read_yaml(path).get("extends") or []
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(
        isinstance(parent, str) for parent in parents
    ):
        raise ValueError(
            f"`extends` of {path} must be a file or a list of files, got "
            f"{parents!r}."
        )
    found = []
    for number, parent in enumerate(parents):
        files = recipe_files(path.parent / parent, (*above, path))
        # the later ones change keys of the first
        found += files if number == 0 else files[-1:]
    return [*found, path]


def changed(old, new, source, name=""):
    """Changes a block key by key, or replaces it where the new one has a tag.

    Arguments
    ---------
    old : object
        The block, or another value.
    new : object
        What it is to become.
    source : str
        Where the new value is from, for an error.
    name : str
        The block's key, for an error.

    Returns
    -------
    object
        The new value; a block that was changed is the old one's object.

    Raises
    ------
    ValueError
        If a key is unknown, or a value of the command line does not fit.

    Example
    -------
    >>> changed({"a": 1, "b": 2}, {"b": 3}, "x.yaml")
    {'a': 1, 'b': 3}
    """
    if tag_of(new) or not isinstance(new, dict) or not isinstance(old, dict):
        if name and source == COMMAND_LINE:
            return check_value(name, new, old)
        return new
    # what a tag builds knows its own keys; an empty block takes any
    closed = bool(old) and not tag_of(old)
    for key in new:
        if closed:
            check_known(key, old, source)
        inside = f"{name}.{key}"
        old[key] = changed(old.get(key), new[key], source, inside)
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
