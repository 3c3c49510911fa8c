#!/usr/bin/env python3
"""Finds wrong labels by the embeddings of an encoder, and cleans a manifest.

    python noisy_label_report.py results/x/pretrained \\
        results/x/save/train_noisy.csv results/x/labels

Each utterance gets several scores, see docs/label_noise.md. If the manifest
has the true labels (spk_id_clean), the report says how well each score finds
the wrong ones. With --drop=0.3, cleaned.csv leaves out the 30 % of the
utterances that are the most suspicious by --score. labels.html is a page to
listen to the most suspicious ones; its marks are read by --marks.
"""

import argparse
import hashlib
import json
import pathlib
import sys

import pandas as pd

from speechbrain_ext.dataio.label_marks import clean_labels, read_marks
from speechbrain_ext.dataio.manifests import (
    COLUMNS,
    read_manifest,
    write_manifest,
)
from speechbrain_ext.inference.embedding_store import (
    EmbeddingStore,
    model_fingerprint,
    stored_embeddings,
)
from speechbrain_ext.inference.label_scores import (
    SCORES,
    epoch_losses,
    label_scores,
    suspicion_order,
)
from speechbrain_ext.inference.loading import (
    explain_torch_errors,
    load_encoder,
    pretrained_folder,
)
from speechbrain_ext.processing.label_error_detection import (
    wrong_label_detection,
)
from speechbrain_ext.utils.detection_plots import label_detection_plot
from speechbrain_ext.utils.files import (
    atomic_write,
    locked_folder,
    remove_own,
)
from speechbrain_ext.utils.home import expand_home
from speechbrain_ext.utils.journal import is_own
from speechbrain_ext.utils.label_page import write_label_page
from speechbrain_ext.utils.plots import histogram_plot

# Files that not every report has
OPTIONAL = ("labels.html", "label_scores.png")


def scored(encoder, manifest, arguments):
    """All scores, and how many utterances have labels of one session."""
    fingerprint = model_fingerprint(
        pretrained_folder(arguments.pretrained_folder)
    )

    def embed(encoder, name):
        key = hashlib.sha256(f"{fingerprint} {name}".encode()).hexdigest()
        store = EmbeddingStore(arguments.output_folder / "embeddings", key)
        with explain_torch_errors("The embeddings"):
            return stored_embeddings(
                encoder,
                manifest,
                store,
                num_workers=arguments.num_workers,
                progressbar=True,
            )

    embeddings = embed(encoder, "")
    scores, single = label_scores(encoder, embeddings, manifest)
    if arguments.checkpoints is not None:
        losses = epoch_losses(encoder, arguments.checkpoints, manifest, embed)
        scores = scores.join(losses)
    return scores, single


def require_score(name, scores, arguments):
    """Raises if the labels cannot be ordered by a score."""
    if name in scores:
        return
    remedy = "choose another score"
    if name == "loss":
        remedy = "pass `--checkpoints`, the save folder of the run"
    elif name == "session":
        remedy = (
            "no label has two sessions (`speaker/session/utterance` in an ID): "
            + remedy
        )
    elif name.startswith("sub_center"):
        remedy = "the encoder's classifier has no sub-centers: " + remedy
    raise ValueError(
        f"{arguments.manifest} has no score `{name}` with this encoder; "
        f"{remedy}."
    )


def detection(scores, manifest):
    """Which labels are wrong, if known, and how well each score finds them."""
    if "spk_id_clean" not in manifest:
        return None, {}
    wrong = (manifest["spk_id"] != manifest["spk_id_clean"]).to_numpy()
    if not 0 < wrong.sum() < len(wrong):  # nothing can be detected
        return wrong, {}
    return wrong, {
        name: wrong_label_detection(suspicion_order(name, scores[name]), wrong)
        for name in SCORES
        if name in scores
    }


def draw(scores, wrong, found, folder):
    """The histogram of the cosines, and the curves of all scores."""
    samples = {"all": scores["cosine"]}
    if wrong is not None:
        samples = {
            "label right": scores["cosine"][~wrong],
            "label wrong": scores["cosine"][wrong],
        }
    samples = {kind: values for kind, values in samples.items() if len(values)}
    histogram_plot(samples, folder / "label_cosines.png", SCORES["cosine"])
    if found:
        ordered = {one: suspicion_order(one, scores[one]) for one in found}
        label_detection_plot(ordered, wrong, folder / "label_scores.png")


def write(encoder, manifest, marks, arguments):
    """Writes all files and returns the report."""
    folder, name = arguments.output_folder, arguments.score
    scores, single = scored(encoder, manifest, arguments)
    require_score(name, scores, arguments)
    wrong, found = detection(scores, manifest)
    report = {"utterances": len(manifest)}
    if wrong is not None:
        report["wrong"] = int(wrong.sum())
    report |= {"score": name, **found.get(name, {})}
    report["utterances of labels with one session"] = single
    columns = [c for c in ("ID", "spk_id", "spk_id_clean") if c in manifest]
    table = pd.concat([manifest[columns], scores], axis=1)
    for left in OPTIONAL:  # of an earlier report
        if is_own(folder / left):
            remove_own(folder / left)
    with atomic_write(folder / "label_scores.csv") as file:
        table.to_csv(file, index=False, lineterminator="\n")
    draw(scores, wrong, found, folder)
    order = suspicion_order(name, scores[name])
    if arguments.listen:
        most = order.sort_values(kind="stable").index[: arguments.listen]
        write_label_page(
            folder / "labels.html",
            manifest[COLUMNS].join(scores).loc[most],
            [one for one in SCORES if one in scores],
            "Suspicious labels",
            f"The {len(most)} most suspicious of {len(manifest)} utterances, "
            f"by {name}: {SCORES[name]}. Mark the labels that you have "
            "checked, save the marks, and pass the file to "
            "noisy_label_report.py as --marks.",
            marks,
        )
    if arguments.drop or marks is not None:
        cleaned = clean_labels(manifest, order, arguments.drop, marks)
        report["dropped"] = len(manifest) - len(cleaned)
        write_manifest(cleaned, folder / "cleaned.csv")
    report["scores"] = found
    with atomic_write(folder / "label_report.json") as file:
        json.dump(report, file, indent=2)
    return report


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("pretrained_folder", type=pathlib.Path)
    add("manifest")
    add("output_folder", type=pathlib.Path)
    add("--score", default="cosine", help=", ".join(SCORES))
    add("--drop", type=float, default=0.0, help="share to leave out")
    add("--checkpoints", help="the run's save folder, for the score `loss`")
    add("--listen", type=int, default=100, help="utterances in labels.html")
    add("--marks", help="label_marks.csv, saved by labels.html")
    add("--device", default="cpu")
    add("--num_workers", type=int, default=0)
    add(
        "--trust",
        action="store_true",
        help="let the folder's YAML build any class and run any code",
    )
    return parser


def check_arguments(arguments):
    """Raises if an option is out of range."""
    read = pathlib.Path(arguments.manifest).resolve()
    if read == (arguments.output_folder / "cleaned.csv").resolve():
        raise ValueError(
            f"{arguments.manifest} would be replaced by the list that is "
            "written; choose another output folder."
        )
    if arguments.score not in SCORES:
        raise ValueError(
            f"`--score` must be one of {', '.join(SCORES)}, got "
            f"{arguments.score}."
        )
    if not 0 <= arguments.drop < 1:
        raise ValueError(
            f"`--drop` must be a share in [0, 1), got {arguments.drop}."
        )
    if arguments.listen < 0:
        raise ValueError(
            f"`--listen` must be 0 or more, got {arguments.listen}."
        )
    if arguments.score == "loss" and arguments.checkpoints is None:
        raise ValueError(
            "`--score=loss` needs `--checkpoints`, the save folder of the run "
            "that trained the encoder."
        )


def main(argv=None):
    """Writes the report, the scores, the plots, the page and the manifest."""
    arguments = make_parser().parse_args(expand_home(argv))
    folder, marks = arguments.output_folder, None
    try:
        check_arguments(arguments)
        manifest = read_manifest(arguments.manifest)
        if arguments.marks is not None:
            marks = read_marks(arguments.marks, manifest)
        encoder = load_encoder(
            arguments.pretrained_folder,
            {"device": arguments.device},
            arguments.trust,
        )
        with locked_folder(folder):
            report = write(encoder, manifest, marks, arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: Interrupted.")
    scores = report.pop("scores")
    for name, value in report.items():
        value = value if isinstance(value, str) else f"{value:.4g}"
        print(f"{name:40} {value}")
    for name, found in scores.items():
        print(f"{'ROC AUC of ' + name:40} {found['ROC AUC']:.4g}")
    print(f"See {folder}.")
    if "dropped" not in report and (folder / "cleaned.csv").exists():
        print("cleaned.csv there is of an earlier report.")


if __name__ == "__main__":
    main()
