"""The calibration loss: Cllr compared with minCllr.

    python benchmarks/calibration.py --data_folder=MINIVOX \
        --pretrained_folder results/a/pretrained results/b/pretrained

Runs verification with a copy of each pretrained folder, by cosine, AS-norm
(with and without quality measures) and PLDA, calibrated on random trials of
training speakers. "Apart" is Cllr / minCllr - 1.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

from record import ROOT, finish, parser, print_header, print_row, row

BOUND = 15.0  # percent, for the cosine on list O


def verify(pretrained, data_folder, folder, embeddings):
    """The calibrated rows of results.json."""
    copy = folder / "pretrained"
    shutil.copytree(pretrained, copy)
    command = [sys.executable, "speaker_verification_cosine.py"]
    command += ["hparams/verification_resnet_small.yaml", "--device=cpu"]
    options = {
        "data_folder": data_folder.absolute(),
        "pretrained_folder": copy,
        "output_folder": folder / "out",
        "scorings": "[cosine]",
        "calibrate": "[cosine, asnorm, asnorm_qmf, plda]",
        "bootstrap": 0,
    }
    if embeddings is not None:
        options["embeddings_folder"] = embeddings.absolute()
    subprocess.run(
        [*command, *(f"--{key}={value}" for key, value in options.items())],
        cwd=ROOT / "recipes" / "VoxCeleb" / "SpeakerRec",
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    results = json.loads((folder / "out" / "results.json").read_text())
    return [found for found in results if "Cllr" in found]


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
            found = verify(
                pretrained,
                arguments.data_folder,
                pathlib.Path(folder),
                arguments.embeddings_folder,
            )
        for values in found:
            words = f"{name} {values['trials']} {values['scoring']}"
            for key in ("Cllr", "minCllr"):
                record.append(row(f"{words} {key}", values[key], "bit"))
                record[-1]["value"] = round(values[key], 4)
            apart = 100 * (values["Cllr"] / values["minCllr"] - 1)
            bound = None
            if (values["trials"][-2:], values["scoring"][:7]) == (
                "_O",
                "cosine,",
            ):
                bound = None if arguments.quick else BOUND
            record.append(row(f"{words} apart", apart, "%", bound))
            for made in record[-3:]:
                print_row(made)
    finish(record, arguments.json, 42)


if __name__ == "__main__":
    main()
