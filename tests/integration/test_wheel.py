"""The sdist and the wheel: built offline, installed into a folder, used."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import RECIPE, ROOT
from recipe_runs import TINY

FILES = ("LICENSE", "README.md", "pyproject.toml", "setup.py")
FOLDERS = ("hparams", "recipes", "speechbrain_ext")
BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2])
"""
INSIDE = "speechbrain_ext/recipes/VoxCeleb/SpeakerRec/"


def finish(command, cwd, **environment):
    """What a command writes that has to succeed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kind, source, folder):
    """The archive that ``python -m build`` makes of a source folder."""
    folder.mkdir()
    finish([sys.executable, "-c", BUILD, kind, folder], source)
    (archive,) = folder.iterdir()
    return archive


def contents(wheel):
    """The names and the bytes of a wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the project, since setuptools writes into what it builds."""
    folder = tmp_path_factory.mktemp("project") / "source"
    unwanted = shutil.ignore_patterns("__pycache__", "results")
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=unwanted
        )
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build("wheel", source, tmp_path_factory.mktemp("build") / "wheel")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the installed wheel, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index"]
    finish([*pip, "--no-deps", f"--target={folder}", wheel], folder)
    return folder


def test_wheel_carries_the_package_and_its_recipes(wheel):
    names = set(contents(wheel))
    scripts = [*RECIPE.glob("*.py"), *RECIPE.glob("*.md")]
    recipes = [INSIDE + path.name for path in scripts]
    hparams = (ROOT / "hparams").glob("*.yaml")
    recipes += [f"{INSIDE}hparams/{path.name}" for path in hparams]
    assert len(recipes) > 60
    carried = {name for name in names if "/recipes/" in name}
    assert carried == set(recipes)
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "speechbrain_ext").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    rest = {name for name in names - carried if ".dist-info/" not in name}
    assert rest == package


def test_installed_wheel_has_the_command(installed, tmp_path):
    script = installed / "bin" / "speechbrain-ext"
    done = subprocess.run(
        [script, "info", tmp_path],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"error: The pretrained folder {tmp_path} has no" in done.stderr
    said = finish([script, "--version"], tmp_path, PYTHONPATH=str(installed))
    assert said == "speechbrain-ext 0.1.0\n"


def test_package_claims_no_types(wheel):
    # its signatures have no annotations
    assert not [name for name in contents(wheel) if "py.typed" in name]


def test_sdist_builds_the_same_wheel(source, wheel, tmp_path):
    sdist = build("sdist", source, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("*/setup.py")
    again = build("wheel", unpacked.parent, tmp_path / "wheel")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


def test_installed_wheel_trains_from_an_empty_folder(
    installed, corpus, tmp_path
):
    environment = {"PYTHONPATH": str(installed)}
    code = "import speechbrain_ext as s; print(s.__file__, s.recipes_folder())"
    said = finish([sys.executable, "-c", code], tmp_path, **environment)
    package = installed / "speechbrain_ext"
    assert said.split() == [f"{package}/__init__.py", f"{package}/recipes"]
    options = {**TINY, "data_folder": corpus, "dev_speakers": 0}
    command = [
        sys.executable,
        installed / INSIDE / "train_speaker_embeddings.py",
        installed / INSIDE / "hparams" / "resnet_csphereface2_small.yaml",
        *(f"--{key}={value}" for key, value in options.items()),
    ]
    finish([*command, "--device=cpu"], tmp_path, **environment)
    results = tmp_path / "results" / "resnet_csphereface2_small" / "42"
    assert list(tmp_path.iterdir()) == [tmp_path / "results"]
    assert (results / "pretrained" / "embedding_model.ckpt").is_file()
    log = (results / "train_log.txt").read_text()
    assert log.count("train loss: ") == TINY["number_of_epochs"]


def test_documented_command_copies_the_recipe(installed, tmp_path):
    text = (ROOT / "docs" / "getting_started.md").read_text("utf-8")
    (command,) = re.findall(r"^cp .*recipes_folder.*$", text, re.MULTILINE)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    finish(
        ["sh", "-c", command], tmp_path, PYTHONPATH=str(installed), PATH=path
    )
    copied = tmp_path / "SpeakerRec"
    for name in ("train_speaker_embeddings.py", "hparams/resnet_aam.yaml"):
        assert (copied / name).read_bytes() == (RECIPE / name).read_bytes()
