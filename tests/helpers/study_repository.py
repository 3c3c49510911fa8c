"""A git repository of this project whose recipe's scripts take no time."""

import importlib
import json
import shutil
import subprocess
import sys

import pytest
import ruamel.yaml
from conftest import ROOT

MODULES = (
    *("record", "minivox_published", "noise_plot", "study"),
    *("study_differences", "study_file", "study_keep", "study_names"),
    *("study_noise", "study_rows", "study_run", "study_summary"),
    *("study_tree",),
)

STUDY = {
    "name": "toy",
    "options": {"number_of_epochs": 1},
    "verification": {
        "recipe": "verification_resnet_small.yaml",
        "options": {"scorings": ["cosine"]},
    },
    "systems": {
        "aam": {"recipe": "resnet_aam_small.yaml"},
        "am": {"recipe": "resnet_am_small.yaml", "options": {"channels": 4}},
        "tuned": {"recipe": "resnet_aam_small.yaml", "start_from": "aam"},
    },
    "queue": [
        {"systems": ["aam", "am"], "seeds": [1, 2]},
        {"systems": ["tuned"], "seeds": [1]},
    ],
    "compare": [["am", "aam", "bound"], ["tuned", "aam"]],
}

TRAINING = """\
import pathlib, sys, time
options = dict(word[2:].split("=", 1) for word in sys.argv[2:] if "=" in word)
folder = pathlib.Path(options["output_folder"])
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "calls.txt", "a") as stream:
    stream.write("called\\n")
print("epoch 1", flush=True)
mended = (pathlib.Path(options["data_folder"]) / "mended").exists()
if options["seed"] == "13" and not mended:
    sys.exit("error: the loss is not finite.")
if options["seed"] == "28" and not mended:
    sys.exit("error: No space left while writing to a folder.")
if (pathlib.Path(options["data_folder"]) / "slow").exists():
    time.sleep(0.4)
(folder / "pretrained").mkdir(exist_ok=True)
if "label_noise" in options:
    (folder / "save").mkdir(exist_ok=True)
    (folder / "save" / "train_noisy.csv").touch()
    line = '{"epoch": 1, "train filter AUC": 0.75, "train loss": 1.0}'
    (folder / "epochs.jsonl").write_text(line)
"""

VERIFICATION = """\
import json, pathlib, random, sys, time
options = dict(word[2:].split("=", 1) for word in sys.argv[2:] if "=" in word)
folder = pathlib.Path(options["output_folder"])
folder.mkdir(parents=True, exist_ok=True)
assert pathlib.Path(options["pretrained_folder"]).is_dir()
with open(folder / "calls.txt", "a") as stream:
    stream.write("called\\n")
if (pathlib.Path(options["data_folder"]) / "slow").exists():
    time.sleep(0.2)
draw = random.Random(str(folder.parent.name))
lines = []
for one in range(6):
    for other in range(6):
        kind = "target" if one == other else "nontarget"
        score = draw.gauss(one == other, 1)
        lines.append(f"id{one}/s/1.wav id{other}/t/2.wav {score} {kind}")
(folder / "scores_veri_O_cosine.txt").write_text("\\n".join(lines) + "\\n")
row = {"trials": "veri_O", "scoring": "cosine", "EER %": 20.0}
row |= {"EER % interval": [10.0, 30.0], "minDCF 0.01": 0.5}
row["scores"] = "scores_veri_O_cosine.txt"
(folder / "results.json").write_text(json.dumps([row]))
"""

REPORT = """\
import json, pathlib, sys
pretrained, manifest, folder = map(pathlib.Path, sys.argv[1:4])
assert pretrained.is_dir() and manifest.is_file()
folder.mkdir(parents=True)
found = {"ROC AUC": 0.9, "precision at the noise rate": 0.8}
report = {"utterances": 8, "wrong": 2, "scores": {"cosine": found}}
(folder / "label_report.json").write_text(json.dumps(report))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The repository, with one commit."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("benchmarks", "hparams", "recipes", "speechbrain_ext"):
        shutil.copytree(
            ROOT / name,
            root / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "results"),
        )
    scripts = root / "recipes" / "VoxCeleb" / "SpeakerRec"
    for name, text in (
        ("train_speaker_embeddings.py", TRAINING),
        ("speaker_verification_cosine.py", VERIFICATION),
        ("noisy_label_report.py", REPORT),
    ):
        (scripts / name).write_text(text)
    (root / ".gitignore").write_text("__pycache__/\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run(["git", *who, *words], cwd=root, check=True)
    return root


@pytest.fixture
def study(repository, monkeypatch):
    """The runner, imported from the repository."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("study")
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def call(study, tmp_path, monkeypatch):
    """Runs a study and returns its exit code or its sentence.

    The stand-ins take some time if the data folder has a file ``slow``.
    """
    monkeypatch.setattr(study, "POLL", 0.02)
    data = tmp_path / "data"
    (data / "meta").mkdir(parents=True)
    (data / "meta" / "veri_O.txt").write_text("1 a/b/1.wav a/c/1.wav\n")

    def calling(content, *flags, name="out", **options):
        path = tmp_path / "study.yaml"
        with open(path, "w") as stream:
            ruamel.yaml.YAML(typ="safe").dump(content, stream)
        options = {
            "output_folder": tmp_path / name,
            "data_folder": data,
            "work_folder": tmp_path / "trees",
            **options,
        }
        argv = [str(path), *flags]
        argv += [f"--{key}={value}" for key, value in options.items()]
        with pytest.raises(SystemExit) as ended:
            study.main(argv)
        return ended.value.code

    calling.data = data
    return calling


def records(folder):
    """The rows of a study without what differs from time to time."""
    rows = json.loads((folder / "records.json").read_text())
    varying = ("minutes", "date")
    kept = [
        {key: value for key, value in row.items() if key not in varying}
        for row in rows
        if row["unit"] != "min"
    ]
    return kept, rows
