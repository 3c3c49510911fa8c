#!/usr/bin/env python3
"""Compares the speakers of two files with a pretrained folder.

python verify_files.py results/resnet_csphereface2/pretrained a.wav b.wav

Where verification has left a calibration in the folder, the threshold follows
from the prior probability of the same speaker (--p_target).
"""

import argparse
import pathlib

import numpy as np
from speechbrain.inference.speaker import SpeakerRecognition

from speechbrain_ext.processing.calibration import load_calibrations


def main(argv=None):
    """Prints the cosine and whether it is above the threshold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pretrained_folder")
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--p_target", type=float, default=0.5)
    arguments = parser.parse_args(argv)
    verification = SpeakerRecognition.from_hparams(
        source=arguments.pretrained_folder
    )
    score, same = verification.verify_files(arguments.first, arguments.second)
    score, same = score.item(), bool(same.item())
    words = "by SpeechBrain's threshold of 0.25"
    path = pathlib.Path(arguments.pretrained_folder, "calibration.json")
    calibration = None
    if path.is_file():
        calibration = load_calibrations(path).get("cosine")
    if calibration is not None:
        threshold = calibration.threshold(arguments.p_target)
        ratio = calibration(np.array([score]))[0]
        same = score > threshold
        words = (
            f"(log-likelihood ratio {ratio:.2f}, threshold {threshold:.4f} at "
            f"a prior of {arguments.p_target:g})"
        )
    print(
        f"cosine {score:.4f}: "
        f"{'the same speaker' if same else 'different speakers'} {words}"
    )


if __name__ == "__main__":
    main()
