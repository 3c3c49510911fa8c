"""Broken and hostile YAMLs: one sentence with the file, and no hang."""

import os
import pathlib

import pytest
import ruamel.yaml

from speechbrain_ext.utils.recipe import load_recipe

GOOD = "batch_size: 8\nrate: !ref <batch_size> / 64\n"
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
ECHOES = "b0: xxxxxxxxxx\n" + "".join(
    f"b{n}: !ref {f'<b{n - 1}>' * 10}\n" for n in range(1, 10)
)
APPLY = "x: !apply:{}\n"

# The file's content, and a part of what is said of it
BROKEN = [
    ("", "is empty"),
    ("\n\n", "is empty"),
    ("# a comment\n", "is empty"),
    ("---\n", "is empty"),
    ("null", "is empty"),
    ("- a\n- b\n", "has a list"),
    ("hello", "has a single value"),
    ("5", "has a single value"),
    ("a: [", "is not valid YAML (line 1)"),
    ("a: 1\nb: {c: 2\n", "is not valid YAML (line"),
    ("a: 1\n b: 2\n", "is not valid YAML (line 2)"),
    ("a:\n\tb: 1\n", "indent with spaces"),
    ("a: 'x\n", "is not valid YAML"),
    ("a: 1\na: 2\n", 'duplicate key "a"'),
    ("a: {b: 1, b: 2}\n", 'duplicate key "b"'),
    ("a: 1\n---\nb: 2\n", "is not valid YAML"),
    ("a: *b\n", "is not valid YAML"),
    ("a: %b\n", "is not valid YAML"),
    ("a: @b\n", "is not valid YAML"),
    ("a: b: c\n", "is not valid YAML"),
    ("1: a\n", "has the key 1, which is not a name"),
    ("null: a\n", "has the key None"),
    ("[a, b]: c\n", "which is not a name"),
    ("{a: b}: c\n", "is not a name"),
    ("a: &x {b: *x}\n", "form a loop"),
    ("a: &x [*x]\n", "form a loop"),
    ("a: &x [1, {b: [*x]}]\n", "form a loop"),
    (LAUGHS, "at most 1000000 characters"),
    (ECHOES, "at most 1000000 characters"),
    ("a: " + "[" * 500 + "]" * 500, "nested too deeply"),
    ("a: " + "{b: " * 500 + "1" + "}" * 500, "nested too deeply"),
    ("a: !ref <b>\nb: !ref <a>\n", "references a -> b -> a form a loop"),
    ("a: !ref <a>\n", "references a -> a form a loop"),
    ("a: !ref <a>/b\n", "form a loop"),
    ("a: {b: !ref <c>}\nc: !ref <a>\n", "form a loop"),
    ("a: !copy <b>\nb: [!copy <a>]\n", "form a loop"),
    ("a: !ref <nothing>\n", "refers to <nothing>"),
    ("a: 5\nb: !ref <a[c]>\n", "refers to <a[c]>"),
    ("a: {b: 1}\nc: !ref <a[d]>\n", "refers to <a[d]>"),
    ("a: !ref <>\n", "refers to <>"),
    ("a: !new:no.such.Thing {}\n", "no.such.Thing"),
    ("a: !name:no_such_module.x\n", "no_such_module.x"),
    ("a: !new:collections.Counter [1, 2, 3]\n", "collections.Counter"),
    ("a: !new:fractions.Fraction {z: 1}\n", "unexpected keyword"),
    ("a: !new:os.getcwd {}\n", "should be a class"),
    ("a: !module:os.path.nowhere\n", "nowhere"),
    ("a: !nonsense 5\n", "!nonsense"),
    ("a: !PLACEHOLDER\n", "needs `a`; pass --a=VALUE"),
    (APPLY.format("math.sqrt [-1]"), "math domain error"),
    (APPLY.format("operator.truediv [1, 0]"), "division by zero"),
    (APPLY.format("os.remove [/no/such/file]"), "/no/such/file"),
    (APPLY.format("sys.exit [3]"), "SystemExit: 3"),
    (APPLY.format("operator.getitem [[], 0]"), "index out of range"),
    (APPLY.format("operator.attrgetter []"), "attrgetter"),
    ("a: !include:none.yaml\n", "none.yaml"),
    ("a: !apply:no_such.function []\n", "no_such.function"),
    ("a: 2024-13-45\n", "cannot be read"),
    ("a: " + "9" * 5000 + "\n", "cannot be read"),
    ("extends: bad.yaml\n", "`extends` is no longer supported"),
    ("extends: none.yaml\n", "copy a standalone recipe from hparams/"),
    ("extends: 5\n", "`extends` is no longer supported"),
    ("extends: [5]\n", "`extends` is no longer supported"),
    ("extends: !new:os.getcwd\n", "`extends` is no longer supported"),
    ("extends: good.yaml\nwithout: [nothing]\n", "on the command line"),
    (GOOD + "without: [nothing]\n", "the key 'without', which is not used"),
    ("batch_size: -3\n", "change it in"),
    ("speeds: fast\n", "`speeds` must be a list"),
    ("lr_scale: !ref <x> * -1\nx: 3\n", "`lr_scale` must be a number above 0"),
    ("lonely: 5\n", "which is not used"),
    (b"\xff\xfea\x00:\x00", "is not UTF-8"),
    (b"a: \xe4\xf6\n", "is not UTF-8 text (byte 3)"),
    (b"\x00\x01\x02\x7fELF", "is not valid YAML"),
    (bytes(range(255, 127, -1)), "is not UTF-8"),
    (b"a: 1\x00\n", "is not valid YAML"),
    (b"#" * (2**20 + 1), "must have at most 1048576 bytes"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a good recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


@pytest.mark.parametrize(
    ("content", "sentence"), BROKEN, ids=lambda x: ascii(x)[:30]
)
def test_what_is_broken_is_said_with_its_file(folder, content, sentence):
    path = folder / "bad.yaml"
    if isinstance(content, str):
        content = content.encode()
    path.write_bytes(content)
    keys = ruamel.yaml.YAML().load("[rate, a, x, speeds, lr_scale]")
    found = [key for key in keys if f"{key}:".encode() in b"\n" + content]
    with pytest.raises(ValueError) as error:
        load_recipe(path, keys=found)
    said = str(error.value)
    assert sentence in said
    assert "bad.yaml" in said or "none.yaml" in said
    assert "\n" not in said and len(said) < 600
    assert path.read_bytes() == content
    assert sorted(os.listdir(folder)) == ["bad.yaml", "good.yaml"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        (GOOD + "# Stra\u00dfe\n").encode(),
        b"%YAML 1.2\n---\n" + GOOD.encode(),
        (GOOD + "...\n").encode(),
        b"batch_size: '8'\nrate: !ref <batch_size> / 64\n",
        b"batch_size: 8.0\nrate: !ref <batch_size> / 64\n",
        b"batch_size: &b 8\nrate: !ref <batch_size> / 64\nx: &c {y: *b}\n",
    ],
)
def test_what_can_be_understood_is_taken(folder, content):
    (folder / "odd.yaml").write_bytes(content)
    keys = ("batch_size", "rate", *(["x"] if b"x:" in content else []))
    hparams, _ = load_recipe(folder / "odd.yaml", keys=keys)
    assert (hparams["batch_size"], hparams["rate"]) == (8, 0.125)


def test_what_is_no_plain_file_is_said(folder, monkeypatch):
    os.mkfifo(folder / "pipe.yaml")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "folder.yaml").mkdir()
    for name, sentence in (
        ("pipe.yaml", "is not a regular file"),
        ("loop.yaml", "cannot be read"),
        ("folder.yaml", "is a folder"),
        ("none.yaml", "does not exist"),
        ("none/none.yaml", "does not exist"),
        ("good.yaml/x.yaml", "cannot be read"),
        ("x" * 300, "cannot be read"),
    ):
        with pytest.raises(ValueError, match=sentence):
            load_recipe(folder / name)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
    with pytest.raises(
        ValueError, match="good.yaml cannot be read.*Permission"
    ):
        load_recipe(folder / "good.yaml")
