#!/usr/bin/env python3
"""Compares the speakers of two files with a pretrained folder.

    python verify_files.py results/resnet_csphereface2/pretrained a.wav b.wav

The folder is on this machine, or `hf:owner/name` on the Hugging Face Hub. The
files are read as in training: in any format, at any sample rate, with any
number of channels. If verification has left a calibration in the folder, the
threshold follows from the prior probability of the same speaker (--p_target).
No code of the folder is run, unless --trust is given.
On an error the exit code is 1.
"""

import argparse
import os
import sys

import numpy as np
import pandas as pd
import torch

from speechbrain_ext.dataio.manifests import scan_files
from speechbrain_ext.inference.embedding import embed_utterances
from speechbrain_ext.inference.loading import (
    explain_torch_errors,
    load_encoder,
    pretrained_folder,
)
from speechbrain_ext.processing.calibration import load_calibrations
from speechbrain_ext.processing.scoring import cosine_scores


def read_headers_of(paths):
    """Makes a manifest of whole files, each of them checked."""
    for path in paths:
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path} does not exist; check its path.")
        if not os.path.isfile(path):
            raise ValueError(f"{path} is not a file; name an audio file.")
    files = pd.DataFrame({"ID": paths, "wav": paths, "spk_id": ""})
    manifest, rejected, _ = scan_files(
        files.assign(official_test=False), {}, workers=1
    )
    for path, reason in rejected[["wav", "reason"]].itertuples(index=False):
        raise ValueError(
            f"{path} cannot be used: {reason}; give a file of speech."
        )
    return manifest


def cosine(folder, paths, device, trust):
    """The cosine of the embeddings of two files."""
    manifest = read_headers_of(paths)
    encoder = load_encoder(folder, {"device": device}, trust)
    with explain_torch_errors(f"The embeddings of {' and '.join(paths)}"):
        # each by itself, so that their order has no effect
        embeddings = embed_utterances(encoder, manifest, batch_seconds=0.0)
    score = cosine_scores(embeddings, torch.tensor([0]), torch.tensor([1]))
    return score.double().item()


def decide(score, calibration, p_target):
    """Whether the speaker is the same, and the rule in words."""
    if calibration is None:
        return score > 0.25, "by SpeechBrain's threshold of 0.25"
    threshold = calibration.threshold(p_target)
    ratio = calibration(np.array([score]))[0]
    words = (
        f"(log-likelihood ratio {ratio:.2f}, threshold {threshold:.4f} at "
        f"a prior of {p_target:g})"
    )
    low, high = calibration.fitted_range or (score, score)
    if not low <= score <= high:
        words += (
            f"; the calibration was fitted on cosines from {low:.4f} to "
            f"{high:.4f}, so the ratio is an extrapolation"
        )
    return score > threshold, words


def main(argv=None):
    """Prints the cosine and whether it is above the threshold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pretrained_folder")
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument(
        "--p_target",
        "--p-target",
        type=float,
        default=0.5,
        help="prior probability of the same speaker, in (0, 1)",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let the folder's YAML build any class and run any code",
    )
    arguments = parser.parse_args(argv)
    try:
        if not 0 < arguments.p_target < 1:
            raise ValueError(
                "`--p_target` must be a probability in (0, 1), got "
                f"{arguments.p_target:g}; pass a fraction, not percent."
            )
        folder = pretrained_folder(arguments.pretrained_folder)
        path, calibration = folder / "calibration.json", None
        if path.exists():
            calibration = load_calibrations(path).get("cosine")
        paths = [arguments.first, arguments.second]
        score = cosine(folder, paths, arguments.device, arguments.trust)
        same, words = decide(score, calibration, arguments.p_target)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: Interrupted.")
    print(
        f"cosine {score:.4f}: "
        f"{'the same speaker' if same else 'different speakers'} {words}"
    )


if __name__ == "__main__":
    main()
