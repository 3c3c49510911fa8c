#!/usr/bin/env python3
"""Converts the m4a files of VoxCeleb2 to wav or flac, with ffmpeg.

    python convert_audio.py /data/VoxCeleb2 /data/VoxCeleb2_wav

All cores are used. The same command resumes a run that was interrupted. The
target has the same subfolders as the source; pass it as --data_folder.
"""

import argparse
import logging
import sys

from speechbrain_ext.dataio.transcoding import convert_corpus


def main(argv=None):
    """Converts a corpus; returns 1 if the input is wrong, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder of the corpus")
    parser.add_argument("target", help="folder for the converted files")
    parser.add_argument("--form", default="wav", choices=["wav", "flac"])
    parser.add_argument("--workers", type=int, help="default: one per core")
    parser.add_argument(
        "--max_unreadable",
        type=float,
        default=0.01,
        help="share of files that may fail, 0 to 1",
    )
    parser.add_argument(
        "--sample_rate",
        type=int,
        default=16000,
        help="of the converted files, in Hz",
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        counts = convert_corpus(
            arguments.source,
            arguments.target,
            arguments.form,
            arguments.workers,
            arguments.max_unreadable,
            arguments.sample_rate,
        )
    except (ValueError, OSError) as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.", file=sys.stderr)
        return 130
    print(
        f"{counts['converted']} files converted, {counts['there']} existed, "
        f"{counts['failed']} left out"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
