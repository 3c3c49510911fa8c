"""A study: which recipes, losses, options and seeds are run and compared.

A study is a YAML file:

    name: a_study
    options: {number_of_epochs: 12}      # of every training
    verification:
        recipe: verification_resnet_small.yaml
        options: {scorings: [cosine, asnorm]}
    systems:
        aam: {recipe: resnet_aam_small.yaml, options: {channels: 16}}
        aam_large: {recipe: resnet_aam_large_margin_small.yaml, start_from: aam}
        published_aam: {published: aam}
    queue:                               # every seed of each line in turn
        - {systems: [aam, published_aam], seeds: [42, 43]}
        - {systems: [aam_large], seeds: [42]}
    compare:
        - [aam, published_aam, bound]    # may not be worse beyond chance
        - [aam_large, aam]
    compare_increases:                   # what noise costs the one, the other
        - [c_noisy, c, aam_noisy, aam]
    label_report: True                   # of the runs with `label_noise`

`published` is a loss of `minivox_published.py`, its options that script's.
`start_from` is the system whose encoder of the same seed is fine-tuned. A file
with `base: other.yaml` takes the keys that it lacks from that file, which lies
in the same folder.
"""

import contextlib
import hashlib
import io
import json
import pathlib
import re

import minivox_published

from speechbrain_ext.dataio.trials import find_trial_lists
from speechbrain_ext.inference.noisy_labels import noise_options
from speechbrain_ext.processing.label_filters import make_label_filter
from speechbrain_ext.utils.command_line import parse_command_line
from speechbrain_ext.utils.overrides import apply_overrides, check_known
from speechbrain_ext.utils.recipe import read_recipe
from speechbrain_ext.utils.yaml_files import read_yaml

RECIPE = pathlib.Path("recipes", "VoxCeleb", "SpeakerRec")
TRAINING = "train_speaker_embeddings.py"
VERIFICATION = "speaker_verification_cosine.py"
REPORT = "noisy_label_report.py"
LABELS = "labels"  # the report's folder in that of a run
KEYS = ("name", "options", "verification", "systems", "queue", "compare")
KEYS += ("compare_increases", "label_report", "base")
SYSTEM_KEYS = ("recipe", "options", "start_from", "published")
SELECTING = ("losses", "seeds")
GIVEN = ("seed", "output_folder", "data_folder", "start_from")  # by the runner


def read_study(path):
    """A study as a dict, its form checked."""
    study = _plain(path)
    if "base" in study:
        base = pathlib.Path(path).parent / str(study.pop("base"))
        study = _plain(base) | study
        if "base" in study:
            raise ValueError(
                f"{path}: the base {base} must have no `base` of its own."
            )
    for key, kind in (
        ("name", str),
        ("verification", dict),
        ("systems", dict),
        ("queue", list),
    ):
        if not isinstance(study.get(key), kind) or not study[key]:
            raise ValueError(f"{path} must have `{key}`, a {kind.__name__}.")
    study = {"options": {}, "compare": [], "compare_increases": [], **study}
    if not isinstance(study.get("label_report", False), bool):
        raise ValueError(
            f"{path}: `label_report` must be True or False, got "
            f"{study['label_report']!r}."
        )
    for name, system in study["systems"].items():
        if not re.fullmatch(r"\w+", name) or not isinstance(system, dict):
            raise ValueError(
                f"{path}: the system '{name}' must be a name of letters, "
                "digits and _ with a map of keys."
            )
        for key in system:
            check_known(key, SYSTEM_KEYS, f"{path}: system {name}")
        if not isinstance(system.setdefault("options", {}) or {}, dict):
            raise ValueError(
                f"{path}: `options` of the system {name} must be a dict."
            )
        system["options"] = system["options"] or {}
        if ("recipe" in system) == ("published" in system):
            raise ValueError(
                f"{path}: the system {name} must have either `recipe` or "
                "`published`."
            )
        named = system.get("start_from", name)
        check_known(named, study["systems"], f"{path}: start_from of {name}")
    for pair in study["compare"]:
        if not _is_names(pair, 2) or pair[2:] not in ([], ["bound"]):
            raise ValueError(
                f"{path}: `compare` must have lines [system, system] or "
                f"[system, system, bound], got {pair}."
            )
        for name in pair[:2]:
            check_known(name, study["systems"], f"{path}: compare")
    for four in study["compare_increases"]:
        if not _is_names(four, 4) or len(four) != 4:
            raise ValueError(
                f"{path}: `compare_increases` must have lines [noisy, clean, "
                f"other noisy, other clean], got {four}."
            )
        for name in four:
            check_known(name, study["systems"], f"{path}: compare_increases")
    return study


def _is_names(line, least):
    """Whether a line of a YAML is a list of names."""
    return (
        isinstance(line, list)
        and len(line) >= least
        and all(isinstance(name, str) for name in line)
    )


def _plain(path):
    """The keys of a file, all known, with plain values; none are empty."""
    found = json.loads(json.dumps(read_yaml(str(path))))
    for key in found:
        check_known(key, KEYS, str(path))
    found = {key: value for key, value in found.items() if value is not None}
    for key, kind in (
        ("options", dict),
        ("compare", list),
        ("compare_increases", list),
    ):
        if not isinstance(found.get(key, kind()), kind):
            raise ValueError(f"{path}: `{key}` must be a {kind.__name__}.")
    return found


def runs_of(study):
    """The runs in their order: a dict of settings by name."""
    runs = {}
    for line in study["queue"]:
        whole = isinstance(line, dict) and set(line) == {"seeds", "systems"}
        if not whole or not all(
            isinstance(one, list) and one for one in line.values()
        ):
            raise ValueError(
                "A line of `queue` must have the lists `systems` and `seeds`, "
                f"got {line}."
            )
        seeds, systems = line["seeds"], line["systems"]
        for seed in seeds:
            if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
                raise ValueError(
                    f"`seeds` must be whole numbers of 0 or more, got {seed!r}."
                )
            for name in map(str, systems):
                check_known(name, study["systems"], "queue")
                run = _run(study, name, seed)
                if f"{name}_{seed}" in runs:
                    raise ValueError(
                        f"`queue` has {name} with seed {seed} twice; take "
                        "one of them out."
                    )
                base = run.get("start_from", None)
                if base is not None and base not in runs:
                    raise ValueError(
                        f"{name} with seed {seed} starts from {base}, which "
                        "must come before it in `queue`."
                    )
                runs[f"{name}_{seed}"] = run
    return runs


def _run(study, name, seed):
    """The setting of one run: all that is not a path."""
    system = study["systems"][name]
    run = {"system": name, "seed": seed, **system}
    if "recipe" in system:
        run["options"] = study["options"] | system.get("options", {})
        run["verification"] = study["verification"]
        if study.get("label_report") and run["options"].get("label_noise"):
            run["label_report"] = True
    else:
        run.setdefault("options", {})
    if "start_from" in system:
        run["start_from"] = f"{system['start_from']}_{seed}"
    return run


def flags(options):
    """Options as a command line has them."""
    return [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in options.items()
    ]


def commands(run, folder, tree, data_folder, wespeaker):
    """The commands of a run by phase; folder: the run's, absolute."""
    if "published" in run:
        options = {
            "data_folder": data_folder,
            "wespeaker": wespeaker,
            "output_folder": folder / "published",
            **run["options"],
        }
        words = [*flags({k: str(v) for k, v in options.items()}), "--losses"]
        words += [run["published"], "--seeds", str(run["seed"])]
        script = ["benchmarks/minivox_published.py", *words]
        return {"training": (tree, script)}
    training, verification = folder / "training", run["verification"]
    given = {"data_folder": data_folder, "output_folder": training}
    if "start_from" in run:
        base = folder.parent / run["start_from"] / "training" / "pretrained"
        given["start_from"] = base
    given = {key: str(value) for key, value in given.items()}
    given |= {"seed": run["seed"], **run["options"]}
    first = [TRAINING, f"hparams/{run['recipe']}", "--noprogressbar"]
    # as the training prints it: who has wrong labels knows no others
    noisy = "_noisy" * bool(run["options"].get("label_noise"))
    given_then = {
        "data_folder": data_folder,
        "pretrained_folder": training / "pretrained",
        "cohort_manifest": training / "save" / f"train{noisy}.csv",
        "output_folder": folder / "verification",
    }
    given_then = {key: str(value) for key, value in given_then.items()}
    given_then |= verification.get("options", {})
    then = [VERIFICATION, f"hparams/{verification['recipe']}"]
    then += ["--noprogressbar", *flags(given_then)]
    cwd = tree / RECIPE
    made = {
        "training": (cwd, [*first, *flags(given)]),
        "verification": (cwd, then),
    }
    if run.get("label_report"):
        words = [given_then["pretrained_folder"]]
        words += [str(training / "save" / "train_noisy.csv")]
        words += [str(folder / LABELS), "--listen=0"]
        made["labels"] = (cwd, [REPORT, *words])
    return made


def results_folder(run, folder):
    """Where a run's results.json and score files are."""
    if "published" in run:
        return folder / "published" / f"{run['published']}_{run['seed']}"
    return folder / "verification"


def check_study(study, tree, data_folder, wespeaker):
    """Refuses what would fail after hours: returns the runs by name."""
    if not data_folder.is_dir():
        raise ValueError(
            f"`--data_folder` {data_folder} is not a folder; check its path."
        )
    if not find_trial_lists([str(data_folder)]):
        raise ValueError(
            f"`--data_folder` {data_folder} has no trial lists (veri_*.txt)."
        )
    runs, checked = runs_of(study), set()
    for name, run in runs.items():
        own = set(run["options"]) & set(GIVEN)
        if own:
            raise ValueError(
                f"{name}: the option {own.pop()} is given by the runner; take "
                "it out of `options`."
            )
        folder = tree / "runs" / name
        made = commands(run, folder, tree, data_folder, wespeaker)
        if "published" in run:
            _check_published(name, run, made["training"][1], wespeaker)
            continue
        _check_command(name, *made["training"])
        verified = repr(run["verification"])  # often the same of all runs
        if verified not in checked:
            _check_command(name, *made["verification"])
            checked.add(verified)
        _check_noise(name, run)
        named = run["recipe"], run["verification"]["recipe"]
        run["recipes"] = [_digest(tree / RECIPE / "hparams" / n) for n in named]
    return runs


def _digest(path):
    """A digest of a recipe without its comments: it is part of a setting."""
    lines = path.read_text("utf-8").splitlines()
    bare = [re.sub(r"(^|\s)#.*", "", line).rstrip() for line in lines]
    text = "\n".join(filter(None, bare))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _check_command(name, cwd, words):
    """Whether a script of the recipe would take a command line."""
    script, path, *others = words
    if not (cwd / path).is_file():
        raise ValueError(
            f"{name}: the recipe {path} does not exist at the study's commit."
        )
    try:
        argv = [str(cwd / path), *others]
        recipe, _, overrides = parse_command_line(argv, cwd / script)
        apply_overrides(read_recipe(recipe), overrides, recipe)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_noise(name, run):
    """Whether a training would take its label noise and its label filter."""
    noise, chosen = map(run["options"].get, ("label_noise", "label_filter"))
    try:
        if noise:
            noise_options(noise, run["seed"])
        make_label_filter(chosen)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_published(name, run, words, wespeaker):
    """Whether minivox_published.py would take a command line."""
    if wespeaker is None or not (wespeaker / "wespeaker" / "models").is_dir():
        raise ValueError(
            f"{name} needs `--wespeaker`, a checkout of WeSpeaker; got "
            f"{wespeaker}."
        )
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = minivox_published.make_parser().parse_args(words[1:])
    except SystemExit as end:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise ValueError(f"{name}: {reason}") from end
    paths = ("data_folder", "wespeaker", "output_folder", "json", "quick")
    known = {k: v for k, v in vars(found).items() if k not in paths}
    run["options"] = {k: v for k, v in known.items() if k not in SELECTING}
