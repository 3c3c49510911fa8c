#!/usr/bin/env python3
"""Compares the speakers of two files with a pretrained folder.

python verify_files.py results/resnet_csphereface2/pretrained a.wav b.wav
"""

import argparse

from speechbrain.inference.speaker import SpeakerRecognition


def main(argv=None):
    """Prints the cosine and whether it is above the threshold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pretrained_folder")
    parser.add_argument("first")
    parser.add_argument("second")
    arguments = parser.parse_args(argv)
    verification = SpeakerRecognition.from_hparams(
        source=arguments.pretrained_folder
    )
    score, same = verification.verify_files(arguments.first, arguments.second)
    print(
        f"cosine {score.item():.4f}: "
        f"{'the same speaker' if same.item() else 'different speakers'} by "
        "SpeechBrain's threshold of 0.25"
    )


if __name__ == "__main__":
    main()
