"""Docstrings against the code that they describe, parsed and not grepped."""

import ast
import importlib
import inspect
import re

import pytest
from conftest import ROOT

MODULES = [
    path
    for path in sorted((ROOT / "speechbrain_ext").rglob("*.py"))
    if path.name != "__init__.py"
]


def public(tree):
    """Public classes, functions and methods: (name, node, is a method)."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if not node.name.startswith("_"):
                yield node.name, node, False
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for child in node.body:
                if isinstance(child, ast.FunctionDef):
                    if not child.name.startswith("_") and not is_setter(child):
                        yield f"{node.name}.{child.name}", child, True


def is_setter(function):
    """Whether a method is the setter of a property, which has the text."""
    return any(
        getattr(decorator, "attr", "") == "setter"
        for decorator in function.decorator_list
    )


def arguments(function, is_method):
    """Names of a function's arguments as its docstring lists them."""
    names = [a.arg for a in function.args.posonlyargs + function.args.args]
    decorators = {getattr(d, "id", "") for d in function.decorator_list}
    if is_method and "staticmethod" not in decorators:
        names = names[1:]
    if function.args.vararg:
        names.append("*" + function.args.vararg.arg)
    return names + [a.arg for a in function.args.kwonlyargs]


def documented(docstring):
    """Names under the heading Arguments."""
    match = re.search(r"Arguments\n-+\n(.*?)(?:\n\n\S|\Z)", docstring, re.S)
    if not match:
        return []
    return re.findall(r"^(\*?\w+) : ", match.group(1), re.M)


def referred(docstring):
    """Names of the arguments of what the docstring refers to."""
    match = re.search(
        r"(?:Overrides|Extends)\s+``([\w.]+)``;\s+see\s+there", docstring
    )
    if not match:
        return set()
    parts = match[1].split(".")
    place = next(n for n, part in enumerate(parts) if part[0].isupper())
    target = importlib.import_module(".".join(parts[:place]))
    for part in parts[place:]:
        target = getattr(target, part)
    assert target.__doc__, f"{match[1]} has no docstring"
    return set(inspect.signature(target).parameters)


def problems(source):
    """What is missing or does not agree in a module."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else ["the module has no docstring"]
    for name, node, is_method in public(tree):
        docstring = ast.get_docstring(node)
        if not docstring:
            found.append(f"{name} has no docstring")
            continue
        function = node
        if isinstance(node, ast.ClassDef):
            made = [
                n for n in node.body if getattr(n, "name", "") == "__init__"
            ]
            if not made:
                continue
            function, is_method = made[0], True
        expected, given = arguments(function, is_method), documented(docstring)
        elsewhere = referred(docstring) - set(given)
        if given != [one for one in expected if one not in elsewhere]:
            found.append(f"{name} documents {given}, takes {expected}")
    return found


def test_there_are_modules():
    assert len(MODULES) > 15


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_docstrings_agree_with_the_code(path):
    assert problems(path.read_text()) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_module_has_a_test_file_and_a_readable_size(path):
    name = f"test_{path.stem.lower()}.py"
    assert list((ROOT / "tests").rglob(name)), name
    assert len(path.read_text().splitlines()) <= 450


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_library_neither_asserts_nor_prints(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), node.lineno
        if isinstance(node, ast.Call) and path.stem != "toy_corpus":
            assert getattr(node.func, "id", "") != "print", node.lineno


def test_references_stand_for_the_arguments_of_what_they_name():
    sample = '''"""A module."""


class C:
    """A class."""

    def fit_batch(self, batch):
        """Does.

        Overrides ``speechbrain.core.Brain.fit_batch``; see there.
        """

    def evaluate(self, test_set, own):
        """Does.

        Overrides ``speechbrain.core.Brain.evaluate``;
        see there.
        """
'''
    assert problems(sample) == [
        "C.evaluate documents [], takes ['test_set', 'own']"
    ]
    with pytest.raises(AttributeError, match="fit_batsh"):
        problems(sample.replace("Brain.fit_batch", "Brain.fit_batsh"))


def test_check_fails_on_broken_samples():
    sample = '''"""A module."""


def f(a, b):
    """Does.

    Arguments
    ---------
    a : int
        One.
    """


class C:
    """A class."""

    def __init__(self, size):
        pass

    def g(self):
        pass
'''
    assert problems(sample) == [
        "f documents ['a'], takes ['a', 'b']",
        "C documents [], takes ['size']",
        "C.g has no docstring",
    ]
