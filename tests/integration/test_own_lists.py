"""From a user's own `speaker path` list to a decision on two files."""

import json
import pathlib
import shlex
import shutil

import pytest
from processes import run_script
from recipe_runs import train

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.score_files import read_scores

SPEAKERS = 5  # of the list, two of them in trials


@pytest.fixture(scope="module")
def own(corpus, tmp_path_factory):
    """Files of several speakers in one folder, a list of them and trials."""
    root = tmp_path_factory.mktemp("own")
    (root / "audio").mkdir()
    names, lines = [], []
    for speaker in sorted((corpus / "wav").iterdir())[:SPEAKERS]:
        found = sorted(speaker.rglob("*.*"))[:4]
        names.append([])
        for number, path in enumerate(found):
            name = f"audio/{speaker.name}-{number}{path.suffix}"
            shutil.copy(path, root / name)
            names[-1].append(name)
            lines.append(f"{speaker.name} {name}\n")
    (root / "list.txt").write_text("".join(lines))
    first, second = names[:2]
    trials = [f"1 {first[0]} {name}\n" for name in first[1:]]
    trials += [f"0 {first[0]} {name}\n" for name in second]
    (root / "pairs.txt").write_text("".join(trials))
    return root


def call(recipe, command):
    """Runs a command in the recipe's folder."""
    assert command[0] == "python"
    done = run_script(list(map(str, command[1:])), recipe)
    assert done.returncode == 0, done.stderr
    return done


def test_a_list_goes_from_training_to_a_decision(recipe, own, tmp_path):
    # names relative to the data folder, as in the README
    lists = {"file_list": "list.txt", "trial_lists": "pairs.txt"}
    options = {"dev_speakers": 0, "number_of_epochs": 1, "min_draws": 1}
    done = train(recipe, own, tmp_path / "run", **options, **lists)
    assert done.returncode == 0, done.stderr
    prepared = read_manifest(tmp_path / "run" / "save" / "train.csv")
    assert prepared["spk_id"].nunique() == SPEAKERS - 2
    # the command that training ends with, word for word
    said = done.stdout + done.stderr
    (line,) = [x for x in said.splitlines() if "speaker_verification" in x]
    command = shlex.split(line[line.index("python ") :])
    assert "--file_list=list.txt" in command
    assert "--trial_lists=pairs.txt" in command
    folder = tmp_path / "verified"
    cheap = ["--scorings=[cosine]", "--calibrate=[cosine]", "--bootstrap=0"]
    cheap += ["--num_workers=0", "--calibration_trials=20", "--device=cpu"]
    call(recipe, [*command, f"--output_folder={folder}", *cheap])
    first = (own / "pairs.txt").read_text().split()[1]
    enrol, _, scores, targets = read_scores(folder / "scores_pairs_cosine.txt")
    assert len(scores) == 7
    assert int(targets.sum()) == 3
    assert set(enrol) == {str(pathlib.Path(first).with_suffix(""))}
    assert json.loads((folder / "results.json").read_text())
    tested = read_manifest(folder / "save" / "test.csv")
    assert tested["spk_id"].nunique() == 2
    pair = sorted((own / "audio").iterdir())[:2]
    pretrained = tmp_path / "run" / "pretrained"
    done = call(recipe, ["python", "verify_files.py", pretrained, *pair])
    assert "speaker" in done.stdout
    assert f"cosine {scores[0].item():.4f}: " in done.stdout


def test_verification_finds_its_files_here_and_in_the_data(
    recipe_folder, tmp_path, monkeypatch
):
    from speaker_verification_cosine import FILES, find_files

    here, data = tmp_path / "here", tmp_path / "data"
    here.mkdir()
    data.mkdir()
    monkeypatch.chdir(here)
    (here / "models.txt").write_text("m a b\n")
    (data / "train.csv").touch()
    hparams = {**dict.fromkeys(FILES), "data_folder": str(data)}
    hparams |= {"enrolment": "models.txt", "cohort_manifest": "train.csv"}
    find_files(hparams)
    assert hparams["enrolment"] == str(here / "models.txt")
    assert hparams["cohort_manifest"] == str(data / "train.csv")
    assert hparams["conditions"] is None
    with pytest.raises(FileNotFoundError, match="`conditions` no.csv does not"):
        find_files({**hparams, "conditions": "no.csv"})
