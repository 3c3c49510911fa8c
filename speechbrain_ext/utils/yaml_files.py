"""Reading of users' YAML files; errors name the file and the line."""

import difflib
import io
import os
import pathlib
import re
import stat

import ruamel.yaml
from ruamel.yaml.error import YAMLError

LARGEST_FILE = 2**20  # bytes; recipes have a few thousand
LARGEST_TREE = 10**6  # characters, with anchors and references expanded

REFERENCE = re.compile(r"<([^<>]*)>")


def read_yaml(path):
    """Reads a YAML with its tags and comments, without building objects.

    Arguments
    ---------
    path : str | pathlib.Path
        The file.

    Returns
    -------
    ruamel.yaml.comments.CommentedMap
        The keys; references are not resolved.

    Raises
    ------
    ValueError
        If it is not a readable file of keys and values.

    Example
    -------
    >>> path = getfixture("tmp_path") / "recipe.yaml"
    >>> _ = path.write_text("seed: 42  # of everything\\n")
    >>> read_yaml(path)["seed"]
    42
    """
    text = read_text(path)
    tree = parse_yaml(text, path)
    if tree is None:
        raise ValueError(f"{path} is empty; it must have `key: value` lines.")
    if not isinstance(tree, dict):
        kind = "a list" if isinstance(tree, list) else "a single value"
        raise ValueError(f"{path} has {kind}; it must have `key: value` lines.")
    for key in tree:
        if not isinstance(key, str):
            raise ValueError(
                f"{path} has the key {key!r}, which is not a name; put quotes "
                "around it or rename it."
            )
    return tree


def read_text(path):
    """Reads a small text file.

    Arguments
    ---------
    path : str | pathlib.Path
        The file, UTF-8 with or without a byte order mark.

    Returns
    -------
    str
        The text.

    Raises
    ------
    ValueError
        If it is missing, not a regular file, unreadable, too large or not
        UTF-8.

    Example
    -------
    >>> read_text(getfixture("tmp_path"))
    Traceback (most recent call last):
    ValueError: ... is a folder; pass the path of a file.
    """
    path = pathlib.Path(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ValueError(f"{path} is a folder; pass the path of a file.")
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(
                f"{path} is not a regular file; pass the path of a file."
            )
        if status.st_size > LARGEST_FILE:
            raise ValueError(
                f"{path} must have at most {LARGEST_FILE} bytes, got "
                f"{status.st_size}; is it the right file?"
            )
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} does not exist; {_suggestion(path)}"
        ) from error
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); check its path and "
            "its permissions."
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8."
        ) from error


def _suggestion(path):
    """A file of a similar name, in the folder or in `hparams` below it."""
    folders = path.parent, path.parent / "hparams"
    found = {
        one.name: one for folder in folders for one in folder.glob("*.yaml")
    }
    close = difflib.get_close_matches(path.name, found, 1, 0.8)
    if close:
        return f"did you mean {found[close[0]]}?"
    return "pass the path of a file."


def parse_yaml(text, source):
    """Parses a YAML with its tags and comments, without building objects.

    Arguments
    ---------
    text : str
        The YAML.
    source : str
        Its name in error messages.

    Returns
    -------
    object
        Maps, lists and scalars of ruamel.yaml.

    Raises
    ------
    ValueError
        If it is not valid YAML, is nested too deeply, or its anchors form a
        loop or expand to too many characters.

    Example
    -------
    >>> parse_yaml("a: [1", "x.yaml")
    Traceback (most recent call last):
    ValueError: x.yaml is not valid YAML (line 1): expected ',' or ']', but ...
    """
    # anchors first: reading a map that contains itself would never end
    if "&" in text:
        check_references(text, source, follow=False)
    try:
        return ruamel.yaml.YAML().load(text)
    except YAMLError as error:
        raise ValueError(_fault(error, source)) from error
    except RecursionError as error:
        raise ValueError(f"{source} is nested too deeply.") from error
    except ValueError as error:  # a month of 13, a number of 5000 digits
        raise ValueError(
            f"{source} has a value that cannot be read ({error}); put quotes "
            "around it."
        ) from error


def _fault(error, source):
    """The error of the parser in one sentence, with the line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    # the next lines are hints about settings of the parser
    problem = problem.strip().splitlines()[0].rstrip(".")
    if "\\t" in problem:
        problem += "; indent with spaces, not with tabs"
    where = f" (line {mark.line + 1})" if mark else ""
    return f"{source} is not valid YAML{where}: {problem}."


def check_references(text, source, follow=True):
    """Raises if anchors or references form a loop or expand to a huge text.

    Arguments
    ---------
    text : str
        The YAML.
    source : str
        Its name in error messages.
    follow : bool
        Whether to follow ``!ref`` and ``!copy`` too, not only anchors.

    Raises
    ------
    ValueError
        If there is a loop, a reference to a key that does not exist, or more
        than a million characters after expansion.

    Example
    -------
    >>> check_references("a: !ref <b>\\nb: !ref <a>", "x.yaml")
    Traceback (most recent call last):
    ValueError: x.yaml: the references a -> b -> a form a loop.
    """
    try:
        root = ruamel.yaml.YAML().compose(io.StringIO(text))
        if root is not None:
            _Sizes(root, source, follow).of(root)
    except YAMLError as error:
        raise ValueError(_fault(error, source)) from error
    except RecursionError as error:
        raise ValueError(f"{source} is nested too deeply.") from error


class _Sizes:
    """Sizes of the nodes of a YAML, with anchors and references expanded."""

    def __init__(self, root, source, follow):
        self.root, self.source, self.follow = root, source, follow
        self.known, self.path = {}, []

    def of(self, node, name=None):
        """Characters of a node and of everything that it refers to."""
        if id(node) in self.known:
            if self.known[id(node)] is None:
                self.refuse_loop(node)
            return self.known[id(node)]
        self.known[id(node)] = None  # until it is counted
        self.path.append((id(node), name))
        size = 1
        for child, child_name in self.children(node):
            size += self.of(child, child_name)
        if isinstance(node, ruamel.yaml.ScalarNode):
            size += len(node.value)
        if size > LARGEST_TREE:
            raise ValueError(
                f"{self.source} must have at most {LARGEST_TREE} characters "
                f"with anchors and references expanded, but '{name}' has "
                "more; remove repeated ones."
            )
        self.path.pop()
        self.known[id(node)] = size
        return size

    def children(self, node):
        """The nodes that a node contains or refers to, with their names."""
        if isinstance(node, ruamel.yaml.MappingNode):
            return [(value, key.value) for key, value in node.value]
        if isinstance(node, ruamel.yaml.SequenceNode):
            return [(value, None) for value in node.value]
        if self.follow and str(node.tag) in ("!ref", "!copy"):
            found = REFERENCE.findall(node.value)
            return [(self.target(reference), reference) for reference in found]
        return []

    def target(self, reference):
        """The node that `a[b]` or `a.attribute` refers to."""
        node = self.root
        for part in reference.partition(".")[0].split("["):
            inside = dict(_items(node))
            if part.rstrip("]") not in inside:
                raise ValueError(
                    f"{self.source} refers to <{reference}>, but lacks this "
                    "key; add the key or correct the reference."
                )
            node = inside[part.rstrip("]")]
        return node

    def refuse_loop(self, node):
        names = [name for seen, name in self.path if seen == id(node)]
        start = [seen for seen, _ in self.path].index(id(node))
        names = [name for _, name in self.path[start:] if name] + names[:1]
        words = " -> ".join(filter(None, names)) or "(without names)"
        raise ValueError(f"{self.source}: the references {words} form a loop.")


def _items(node):
    """Names and nodes of a map, including those that `<<` merges."""
    if not isinstance(node, ruamel.yaml.MappingNode):
        return
    for key, value in node.value:
        if key.value == "<<":
            yield from _items(value)
    yield from ((str(key.value), value) for key, value in node.value)


def yaml_leaves(node, name=""):
    """The values and tags of a YAML, with their dotted keys.

    Arguments
    ---------
    node : object
        A value that ruamel.yaml has read, such as a whole recipe.
    name : str
        Dotted key of the value.

    Yields
    ------
    name : str
        The dotted key; it ends with `` tag`` for a tag.
    value : str
        The value or the tag, as text.

    Example
    -------
    >>> dict(yaml_leaves({"a": {"b": 1, "c": [2]}}))
    {'a.b': '1', 'a.c': '[2]'}
    """
    tag = getattr(getattr(node, "tag", None), "value", None)
    if tag:
        yield f"{name} tag", tag
    if isinstance(node, dict):
        for key, value in node.items():
            yield from yaml_leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, list):
        yield name, str(list(node))
    else:
        yield name, str(getattr(node, "value", node))
