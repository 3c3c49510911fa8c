"""The YAML of a folder that is not trusted."""

import functools

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_ext.inference.safe_yaml import SafeYaml

TEXT = """\
sizes: [1, 2]
rate: 16000
small: 1e-3
word: "a: b"
none: null
truth: True
inner: {deep: {value: 3}}
layer: !new:torch.nn.Linear
    in_features: !ref <inner[deep][value]>
    out_features: 2
    bias: False
list: !new:torch.nn.Linear [2, 3]
plain: !new:torch.nn.Identity
maker: !name:torch.nn.LeakyReLU
    negative_slope: 0.5
again: [!ref <layer>, !ref <sizes>]
folder: owner/name
path: !ref <folder>/a.ckpt
"""


@pytest.fixture
def path(tmp_path):
    """The file."""
    return tmp_path / "hyperparams.yaml"


def test_build_matches_hyperpyyaml(path):
    path.write_text(TEXT)
    built, expected = SafeYaml(path).build(), load_hyperpyyaml(TEXT)
    assert built.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, torch.nn.Module):
            assert repr(built[key]) == repr(value)
        elif isinstance(value, functools.partial):
            assert built[key].func is value.func
            assert built[key].keywords == value.keywords
        elif key != "again":
            assert built[key] == value and type(built[key]) is type(value)
    assert built["again"][0] is built["layer"]


def test_each_build_makes_new_objects(path):
    path.write_text(TEXT)
    plan = SafeYaml(path)
    assert plan.build()["layer"] is not plan.build()["layer"]


@pytest.mark.parametrize("text", ["", "- a", "3", "a: [", "a: b: c", "\x00"])
def test_what_is_no_mapping_is_refused(text, path):
    path.write_text(text)
    with pytest.raises(ValueError, match="hyperparams.yaml"):
        SafeYaml(path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: !new:torch.nn.Identity 3", "as a mapping or a list"),
        ("a: 99999999999999999999999", "at most 1000000, got 9999"),
        ("a: !ref <b>x\nb: 3", "with texts in it, got '<b>x'"),
        ("1: a", "a key must be a plain name"),
        ("? [a]\n: b", "a key must be a plain name"),
        ("a-b: 1", "a key must be a plain name"),
        ("__class__.x: 1", "a key must be a plain name"),
    ],
)
def test_build_rejects(text, match, path):
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        SafeYaml(path).build()
