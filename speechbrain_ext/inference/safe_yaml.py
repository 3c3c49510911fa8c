"""Objects of a pretrained folder's YAML, from a list of allowed classes.

Only plain values and the tags ``!new``, ``!name`` and ``!ref`` are read.
hyperpyyaml, which can call any function, is not used.
"""

import functools
import io
import itertools
import pathlib
import re
import stat

import ruamel.yaml

from speechbrain_ext.inference.allowed_classes import find_allowed_class
from speechbrain_ext.utils.yaml_files import (
    REFERENCE,
    check_references,
    read_text,
)

LARGEST_YAML = 2**16  # bytes; a folder has a few thousand
DEEPEST = 20  # brackets within brackets
LARGEST_NUMBER = 10**6  # of a whole number: sizes, rates, counts
YAML_TAG = "tag:yaml.org,2002:"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SafeYaml:
    """A YAML whose objects can be built several times.

    Arguments
    ---------
    path : str | pathlib.Path
        The file.

    Raises
    ------
    ValueError
        If it is too large, not valid, a loop, or not a mapping.

    Example
    -------
    >>> path = getfixture("tmp_path") / "hyperparams.yaml"
    >>> _ = path.write_text("a: 2\\nb: !new:torch.nn.ReLU\\nc: [!ref <b>]\\n")
    >>> SafeYaml(path).build()
    {'a': 2, 'b': ReLU(), 'c': [ReLU()]}
    >>> _ = path.write_text("a: !apply:os.getcwd\\n")
    >>> SafeYaml(path).build()
    Traceback (most recent call last):
    ValueError: line 1: the tag !apply:os.getcwd is refused; only !new, !name \
and !ref are read without trust
    """

    def __init__(self, path):
        path = pathlib.Path(path)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_YAML:
            raise ValueError(
                f"{path.name} must be a file of at most {LARGEST_YAML} bytes, "
                f"got {status.st_size}"
            )
        text = read_text(path)
        depth = itertools.accumulate(
            (char in "[{") - (char in "]}") for char in text
        )
        if max(depth, default=0) > DEEPEST:
            raise ValueError(f"{path.name} is nested too deeply")
        # also refuses loops, and anchors that expand to a huge text
        check_references(text, path.name)
        self.root = ruamel.yaml.YAML().compose(io.StringIO(text))
        if not isinstance(self.root, ruamel.yaml.MappingNode):
            raise ValueError(f"{path.name} must have `key: value` lines")
        self.nodes = dict(self._pairs(self.root))
        self.built = {}

    def build(self):
        """Builds all objects anew.

        Returns
        -------
        dict
            Values and objects by the keys of the YAML. A key that is referred
            to several times is one object.

        Raises
        ------
        ValueError
            If a tag, a class or a value is not allowed.
        """
        self.built = {}
        return {key: self._value(node) for key, node in self.nodes.items()}

    def _value(self, node):
        if id(node) not in self.built:
            self.built[id(node)] = self._make(node)
        return self.built[id(node)]

    def _make(self, node):
        tag = str(node.tag)
        if tag == "!ref":
            return self._reference(node)
        kind, _, name = tag.partition(":")
        if kind in ("!new", "!name"):
            return self._object(node, kind, name)
        if isinstance(node, ruamel.yaml.MappingNode) and tag in (
            f"{YAML_TAG}map",
            "None",
        ):
            return {key: self._value(n) for key, n in self._pairs(node)}
        if isinstance(node, ruamel.yaml.SequenceNode) and tag in (
            f"{YAML_TAG}seq",
            "None",
        ):
            return [self._value(child) for child in node.value]
        if isinstance(node, ruamel.yaml.ScalarNode):
            return self._scalar(node, tag)
        raise self._refused(node, tag)

    def _scalar(self, node, tag):
        """A number, a text, a truth value or None."""
        kind = tag.removeprefix(YAML_TAG)
        maker = ruamel.yaml.YAML(typ="safe", pure=True).constructor
        if kind == "null":
            return None
        if kind == "bool":
            return maker.construct_yaml_bool(node)
        if kind == "float":
            return float(maker.construct_yaml_float(node))
        if kind == "int" and len(node.value) <= 20:
            number = int(maker.construct_yaml_int(node))
            if abs(number) <= LARGEST_NUMBER:
                return number
        if kind == "int":
            raise ValueError(
                f"{_line(node)}: a whole number must be at most "
                f"{LARGEST_NUMBER}, got {node.value[:20]}"
            )
        if kind in ("str", "timestamp"):
            return str(node.value)
        raise self._refused(node, tag)

    def _object(self, node, kind, name):
        """An object of an allowed class, or what makes one."""
        try:
            made = find_allowed_class(name)
        except ValueError as error:
            raise ValueError(f"{_line(node)}: {error}") from error
        arguments, options = [], {}
        if isinstance(node, ruamel.yaml.MappingNode):
            options = {key: self._value(n) for key, n in self._pairs(node)}
        elif isinstance(node, ruamel.yaml.SequenceNode):
            arguments = [self._value(child) for child in node.value]
        elif node.value:
            raise ValueError(
                f"{_line(node)}: {name} must have arguments as a mapping or a "
                "list"
            )
        made = functools.partial(made, *arguments, **options)
        return made if kind == "!name" else made()

    def _reference(self, node):
        """What `<key>` or `<key[inner]>` is; a text with such texts in it."""
        text = node.value if isinstance(node, ruamel.yaml.ScalarNode) else ""
        found = REFERENCE.findall(text)
        values = [self._value(self._target(node, name)) for name in found]
        if len(found) == 1 and text == f"<{found[0]}>":
            return values[0]
        if not found or not all(isinstance(value, str) for value in values):
            raise ValueError(
                f"{_line(node)}: a reference must be `!ref <key>`, or a text "
                f"with texts in it, got {text[:60]!r}"
            )
        rest = iter(values)
        return REFERENCE.sub(lambda _: next(rest), text)

    def _target(self, node, reference):
        """The node that a reference names."""
        target = self.root
        for part in reference.split("["):
            inner = {}
            if isinstance(target, ruamel.yaml.MappingNode):
                inner = dict(self._pairs(target))
            if part.rstrip("]") not in inner:
                raise ValueError(
                    f"{_line(node)}: there is no <{reference[:60]}>"
                )
            target = inner[part.rstrip("]")]
        return target

    def _pairs(self, node):
        """Names and nodes of a mapping, each name once."""
        seen = set()
        for key, value in node.value:
            name = key.value
            if not (
                isinstance(key, ruamel.yaml.ScalarNode)
                and str(key.tag) == f"{YAML_TAG}str"
                and NAME.fullmatch(name)
            ):
                raise ValueError(f"{_line(key)}: a key must be a plain name")
            if name in seen:
                raise ValueError(f"{_line(key)}: the key {name} comes twice")
            seen.add(name)
            yield name, value

    def _refused(self, node, tag):
        return ValueError(
            f"{_line(node)}: the tag {tag[:60]} is refused; only !new, !name "
            "and !ref are read without trust"
        )


def _line(node):
    return f"line {node.start_mark.line + 1}"
