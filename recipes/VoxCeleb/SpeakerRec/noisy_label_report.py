#!/usr/bin/env python3
"""Finds wrong labels by the cosines of an encoder, and cleans a manifest.

    python noisy_label_report.py results/x/pretrained \\
        results/x/save/train_noisy.csv results/x/labels

The score of an utterance is its cosine with the class of its label. If the
manifest has the true labels (spk_id_clean), the report says how well low
cosines find the wrong ones. With --drop 0.3, cleaned.csv leaves out the 30 %
of the utterances with the lowest cosines.
"""

import argparse
import json
import pathlib
import sys

import pandas as pd

from speechbrain_ext.dataio.manifests import (
    read_manifest,
    write_manifest,
)
from speechbrain_ext.inference.embedding import embed_utterances
from speechbrain_ext.inference.loading import explain_torch_errors, load_encoder
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.processing.label_error_detection import (
    label_cosines,
    wrong_label_detection,
)
from speechbrain_ext.utils.files import atomic_write, locked_folder
from speechbrain_ext.utils.plots import histogram_plot


def scored(encoder, manifest, num_workers):
    """The cosine of each utterance with the class of its label."""
    head, labels = encoder.mods.classifier, manifest["spk_id"].tolist()
    if isinstance(head, CosineClassifier):
        labels = class_numbers(encoder, labels)
    else:  # the mean embedding of a label stands for its class
        head = None
    with explain_torch_errors("The embeddings"):
        embeddings = embed_utterances(
            encoder, manifest, num_workers=num_workers, progressbar=True
        )
    head = head if head is None else head.cpu()
    return label_cosines(embeddings, labels, head).numpy()


def class_numbers(encoder, labels):
    """The encoder's class of each label."""
    known = getattr(encoder.hparams, "label_encoder", None)
    known = getattr(known, "lab2ind", {})
    unknown = sorted(set(labels) - set(known))
    if unknown:
        raise ValueError(
            f"The encoder was not trained on {len(unknown)} of the labels, "
            f"among them {unknown[:3]}; pass the manifest that it was trained "
            "on (save/train_noisy.csv)."
        )
    classes = [known[name] for name in labels]
    size = encoder.mods.classifier.weight.shape[0]
    if max(classes) >= size:
        raise ValueError(
            f"The label map of the encoder has {len(known)} speakers, but its "
            f"classifier {size} classes; they are from two different "
            "trainings. Export the encoder again."
        )
    return classes


def detection(cosines, manifest):
    """How well wrong labels are found, and the cosines for a histogram."""
    if "spk_id_clean" not in manifest:
        return {}, {"all": cosines}
    wrong = (manifest["spk_id"] != manifest["spk_id_clean"]).to_numpy()
    found = {"wrong": int(wrong.sum())}
    samples = {"label right": cosines[~wrong], "label wrong": cosines[wrong]}
    samples = {name: values for name, values in samples.items() if len(values)}
    if len(samples) == 2:  # else nothing can be detected
        found |= wrong_label_detection(cosines, wrong)
    return found, samples


def write(folder, encoder, manifest, arguments):
    """Writes all files and returns the report."""
    cosines = scored(encoder, manifest, arguments.num_workers)
    found, samples = detection(cosines, manifest)
    report = {"utterances": len(manifest), **found}
    table = pd.DataFrame({"ID": manifest["ID"], "cosine": cosines})
    with atomic_write(folder / "label_cosines.csv") as file:
        table.to_csv(file, index=False, lineterminator="\n")
    histogram_plot(
        samples,
        folder / "label_cosines.png",
        "cosine with the class of the label",
    )
    if arguments.drop:
        kept = table["cosine"].rank(method="first", pct=True)
        kept = (kept > arguments.drop).to_numpy()
        report["dropped"] = int((~kept).sum())
        write_manifest(manifest[kept], folder / "cleaned.csv")
    with atomic_write(folder / "label_report.json") as file:
        json.dump(report, file, indent=2)
    return report


def main(argv=None):
    """Writes the report, the cosines, the plot and the cleaned manifest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pretrained_folder", type=pathlib.Path)
    parser.add_argument("manifest")
    parser.add_argument("output_folder", type=pathlib.Path)
    parser.add_argument("--drop", type=float, default=0.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let the folder's YAML build any class and run any code",
    )
    arguments = parser.parse_args(argv)
    folder = arguments.output_folder
    try:
        if not 0 <= arguments.drop < 1:
            raise ValueError(
                f"`--drop` must be a share in [0, 1), got {arguments.drop}."
            )
        manifest = read_manifest(arguments.manifest)
        encoder = load_encoder(
            arguments.pretrained_folder,
            {"device": arguments.device},
            arguments.trust,
        )
        with locked_folder(folder):
            report = write(folder, encoder, manifest, arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: Interrupted.")
    for name, value in report.items():
        print(f"{name:30} {value:.4g}")
    print(f"See {folder}.")


if __name__ == "__main__":
    main()
