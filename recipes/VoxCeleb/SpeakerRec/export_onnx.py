#!/usr/bin/env python3
"""Exports the encoder of a pretrained folder to an ONNX file.

    python export_onnx.py results/resnet_csphereface2/42/pretrained encoder.onnx

The file takes waveforms, or with --features Kaldi's filterbanks, as
WeSpeaker's runtime, pyannote.audio and sherpa-onnx do. With --int8 the weights
have 8 bits. A name that ends in .pt2 gives a file of torch.export instead.
Before the file is put in place, it is compared with torch. No code of the
folder is run, unless --trust is given. Needs the packages onnx, onnxscript and
onnxruntime. `speechbrain-ext export` does the same. On an error the exit code
is 1.
"""

import argparse
import sys

from speechbrain_ext.cli.pretrained import write_exported
from speechbrain_ext.inference.loading import load_encoder
from speechbrain_ext.integrations.onnx import LOWEST_OPSET


def main(argv=None):
    """Exports by the command line; returns 1 on bad input, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pretrained_folder")
    parser.add_argument("out", help="the file to write, .onnx or .pt2")
    parser.add_argument(
        "--features",
        action="store_true",
        help="take features instead of waveforms",
    )
    parser.add_argument(
        "--int8", action="store_true", help="weights of 8 bits (.onnx only)"
    )
    parser.add_argument("--opset", type=int, default=LOWEST_OPSET)
    parser.add_argument(
        "--language", default="unknown", help="of the training data"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the code that the folder names; only if you know its author",
    )
    arguments = parser.parse_args(argv)
    form = "features" if arguments.features else "waveform"
    try:
        encoder = load_encoder(
            arguments.pretrained_folder, trust=arguments.trust
        )
        cosine = write_exported(
            encoder,
            arguments.out,
            form,
            arguments.language,
            arguments.int8,
            arguments.opset,
        )
    except (ValueError, OSError, ImportError) as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 1
    print(f"{arguments.out}: lowest cosine to torch's embeddings {cosine:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
