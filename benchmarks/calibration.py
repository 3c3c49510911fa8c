"""The calibration loss: Cllr compared with minCllr.

    python benchmarks/calibration.py --data_folder=MINIVOX \
        --pretrained_folder results/a/pretrained results/b/pretrained

Runs verification with a copy of each pretrained folder, by cosine, AS-norm
(with and without quality measures) and PLDA, calibrated on random trials of
training speakers. "Apart" is Cllr / minCllr - 1.

Then the speakers of list O are halved. For the trials within each half, the
calibration is fitted on trials of training speakers and, to compare, on trials
of the other half, whose speakers are as new to the encoder as those of the
trials. The rows "O, two halves" have the mean of both.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pandas as pd
from record import ROOT, finish, parser, print_header, print_row, row

from speechbrain_ext.dataio.manifests import read_manifest, write_manifest
from speechbrain_ext.dataio.trials import read_trials

BOUND = 15.0  # percent, for the cosine on list O
ALL = "[cosine, asnorm, asnorm_qmf, plda]"


def verify(pretrained, data_folder, folder, embeddings, **options):
    """The calibrated rows of results.json."""
    command = [sys.executable, "speaker_verification_cosine.py"]
    command += ["hparams/verification_resnet_small.yaml", "--device=cpu"]
    options = {
        "data_folder": data_folder.absolute(),
        "pretrained_folder": pretrained,
        "output_folder": folder,
        "embeddings_folder": embeddings,
        "scorings": "[cosine]",
        "calibrate": ALL,
        "bootstrap": 0,
    } | options
    done = subprocess.run(
        [*command, *(f"--{key}={value}" for key, value in options.items())],
        cwd=ROOT / "recipes" / "VoxCeleb" / "SpeakerRec",
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    results = json.loads((folder / "results.json").read_text())
    return [found for found in results if "Cllr" in found]


def halves(whole, path, folder):
    """Options for the trials within each half of the speakers of list O.

    ``whole`` is the output folder of a verification, ``path`` is the list.
    Yields the options with training speakers and with those of the other half.
    """
    test = read_manifest(whole / "save" / "test.csv")
    trials = read_trials(path)
    speaker = dict(zip(test.ID, test.spk_id, strict=True))
    listed = {*trials.enrol, *trials.test}
    names = sorted({speaker[name] for name in listed})
    lines = path.read_text().splitlines()
    for half in (0, 1):
        inside, others = set(names[half::2]), set(names[1 - half :: 2])
        sides = zip(trials.enrol, trials.test, lines, strict=True)
        kept = [
            line
            for enrol, other, line in sides
            if {speaker[enrol], speaker[other]} <= inside
        ]
        made = folder / f"half{half}.txt"
        made.write_text("\n".join(kept))
        common = {"trial_lists": f"[{made}]", "calibrate": "[cosine, asnorm]"}
        manifest = folder / f"new{half}.csv"
        write_manifest(test[test.spk_id.isin(others)], manifest)
        yield common, common | {"calibration_manifest": manifest}


def rows_of(words, values, bound=None):
    """The three rows of a calibration."""
    made = []
    for key in ("Cllr", "minCllr"):
        made.append(row(f"{words} {key}", values[key], "bit"))
        made[-1]["value"] = round(values[key], 4)
    apart = 100 * (values["Cllr"] / values["minCllr"] - 1)
    made.append(row(f"{words} apart", apart, "%", bound))
    for one in made:
        print_row(one)
    return made


def rows_of_halves(name, runs):
    """The rows of a kind of calibration: the mean over the halves."""
    made = []
    for found in zip(*runs, strict=True):
        mean = pd.DataFrame(found)[["Cllr", "minCllr"]].mean()
        made += rows_of(f"{name} {found[0]['scoring']}", mean)
    return made


def measure(name, folder, pretrained, arguments):
    """All rows of an encoder."""
    copy, whole = folder / "pretrained", folder / "whole"
    shutil.copytree(pretrained, copy)
    embeddings = folder / "embeddings"
    if arguments.embeddings_folder is not None:
        embeddings = arguments.embeddings_folder.absolute()
    given = copy, arguments.data_folder
    record = []
    for values in verify(*given, whole, embeddings):
        words = f"{name} {values['trials']} {values['scoring']}"
        on_o = (values["trials"][-2:], values["scoring"][:7]) == (
            "_O",
            "cosine,",
        )
        bound = BOUND if on_o and not arguments.quick else None
        record += rows_of(words, values, bound)
    runs = {"training speakers": [], "new speakers": []}
    path = arguments.data_folder / "meta" / "veri_O.txt"
    for half, both in enumerate(halves(whole, path, folder)):
        for kind, options in zip(runs, both, strict=True):
            out = folder / f"{kind} {half}"
            runs[kind].append(verify(*given, out, embeddings, **options))
    for kind, found in runs.items():
        words = f"{name} O, two halves, {kind}:"
        record += rows_of_halves(words, found)
    return record


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "only the first folder")
    options.add_argument("--data_folder", type=pathlib.Path, required=True)
    options.add_argument(
        "--pretrained_folder", type=pathlib.Path, nargs="+", required=True
    )
    options.add_argument(
        "--embeddings_folder", type=pathlib.Path, help="cached embeddings"
    )
    arguments = options.parse_args()
    print_header()
    record = []
    for pretrained in arguments.pretrained_folder[
        : 1 if arguments.quick else None
    ]:
        name = pretrained.absolute().parent.name
        with tempfile.TemporaryDirectory() as folder:
            record += measure(
                name,
                pathlib.Path(folder),
                pretrained,
                arguments,
            )
    finish(record, arguments.json, 42)


if __name__ == "__main__":
    main()
