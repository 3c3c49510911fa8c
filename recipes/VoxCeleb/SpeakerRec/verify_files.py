#!/usr/bin/env python3
"""Compares the speakers of two files with a pretrained folder.

    python verify_files.py results/resnet_csphereface2/42/pretrained a.wav b.wav

The folder is on this machine, or `hf:owner/name` on the Hugging Face Hub. The
files are read as in training: in any format, at any sample rate, with any
number of channels. If verification has left a calibration in the folder, the
threshold follows from the prior probability of the same speaker (--p_target).
No code of the folder is run, unless --trust is given. `speechbrain-ext verify`
decides by AS-norm if the folder has a calibrated cohort. On an error the exit
code is 1.
"""

import argparse
import sys

from speechbrain_ext.cli.encoders import open_verifier, require_audio
from speechbrain_ext.cli.speakers import compare_files, sentence


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
        help="prior probability of the same speaker, in (0, 1); needs a "
        "calibration in the folder (default 0.5 with one)",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let the folder's YAML build any class and run any code",
    )
    arguments = parser.parse_args(argv)
    try:
        p_target = arguments.p_target
        if p_target is not None and not 0 < p_target < 1:
            raise ValueError(
                "`--p_target` must be a probability in (0, 1), got "
                f"{p_target:g}; pass a fraction, not percent."
            )
        paths = [arguments.first, arguments.second]
        require_audio(paths)  # before the encoder is loaded
        verifier = open_verifier(
            arguments.pretrained_folder, arguments.device, arguments.trust
        )
        found, _ = compare_files(verifier, *paths, p_target, "cosine")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: Interrupted.")
    print(sentence(found, verifier.decisions))


if __name__ == "__main__":
    main()
