#!/usr/bin/env python3
"""Tells how well an encoder's cosines find labels that are wrong.

    python noisy_label_report.py results/x/pretrained \\
        results/x/save/train_noisy.csv results/x/labels

Every utterance of the manifest is scored by its cosine to the class that it is
labelled with. Where the manifest knows the true labels (spk_id_clean), the
report tells how well low cosines find the wrong ones. With --drop 0.3 the
lowest 30 % are left out of cleaned.csv.
"""

import argparse
import json
import pathlib
import sys

import pandas as pd
from speechbrain.inference.classifiers import EncoderClassifier

from speechbrain_ext.dataio.manifests import (
    read_manifest,
    write_manifest,
)
from speechbrain_ext.inference.embedding import embed_utterances
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.processing.labels import (
    label_cosines,
    wrong_label_detection,
)
from speechbrain_ext.utils.files import atomic_write
from speechbrain_ext.utils.plots import histogram_plot


def scored(pretrained_folder, manifest, device, num_workers):
    """The cosine of each utterance to the class of its label."""
    encoder = EncoderClassifier.from_hparams(
        source=str(pretrained_folder), run_opts={"device": device}
    )
    embeddings = embed_utterances(
        encoder, manifest, num_workers=num_workers, progressbar=True
    )
    head = encoder.mods.classifier
    if not isinstance(head, CosineClassifier):  # means of the labels
        return label_cosines(embeddings, manifest["spk_id"].tolist())
    known = encoder.hparams.label_encoder
    known.expect_len(len(known))
    unknown = sorted(set(manifest["spk_id"]) - set(known.lab2ind))
    if unknown:
        raise ValueError(
            f"The encoder was not trained on {len(unknown)} of the labels, "
            f"{unknown[:3]}; give the manifest that it was trained on "
            "(save/train_noisy.csv)."
        )
    labels = [known.encode_label(name) for name in manifest["spk_id"]]
    return label_cosines(embeddings, labels, head.cpu())


def main(argv=None):
    """Writes the report, the cosines, the plot and the cleaned manifest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pretrained_folder", type=pathlib.Path)
    parser.add_argument("manifest")
    parser.add_argument("output_folder", type=pathlib.Path)
    parser.add_argument("--drop", type=float, default=0.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num_workers", type=int, default=0)
    arguments = parser.parse_args(argv)
    folder = arguments.output_folder
    try:
        if not 0 <= arguments.drop < 1:
            raise ValueError(
                f"`--drop` must be a share in [0, 1), got {arguments.drop}."
            )
        manifest = read_manifest(arguments.manifest)
        cosines = scored(
            arguments.pretrained_folder,
            manifest,
            arguments.device,
            arguments.num_workers,
        ).numpy()
        report = {"utterances": len(manifest)}
        samples = {"all": cosines}
        if "spk_id_clean" in manifest:
            wrong = (manifest["spk_id"] != manifest["spk_id_clean"]).to_numpy()
            report["wrong"] = int(wrong.sum())
            report |= wrong_label_detection(cosines, wrong)
            samples = {
                "label right": cosines[~wrong],
                "label wrong": cosines[wrong],
            }
        folder.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame({"ID": manifest["ID"], "cosine": cosines})
        with atomic_write(folder / "label_cosines.csv") as file:
            table.to_csv(file, index=False, lineterminator="\n")
        histogram_plot(
            samples,
            folder / "label_cosines.png",
            "cosine to the class of the label",
        )
        if arguments.drop:
            kept = table["cosine"].rank(method="first", pct=True)
            kept = (kept > arguments.drop).to_numpy()
            report["dropped"] = int((~kept).sum())
            write_manifest(manifest[kept], folder / "cleaned.csv")
        with atomic_write(folder / "label_report.json") as file:
            json.dump(report, file, indent=2)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for name, value in report.items():
        print(f"{name:30} {value:.4g}")
    print(f"See {folder}.")


if __name__ == "__main__":
    main()
