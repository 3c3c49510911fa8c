"""The command line of ``speechbrain-ext``: subcommands, options and help.

It imports nothing but the standard library, so that ``--help`` is fast.
"""

import argparse
import importlib.metadata
import os
import re

ENCODER = "SPEECHBRAIN_EXT_ENCODER"
ERROR, INTERRUPTED = 2, 130
EXIT_CODES = """\
exit codes:
  0    done; verify: the same speaker; identify: somebody who is enrolled
  1    verify: different speakers; identify: nobody who is enrolled
  2    an error, with one sentence on the standard error
  130  interrupted
"""
ABOUT = f"""\
examples:
  speechbrain-ext info pretrained
  speechbrain-ext verify one.wav other.flac --encoder pretrained
  speechbrain-ext enrol ada ada_1.wav ada_2.wav --encoder pretrained \\
      --enrolments people.npz
  speechbrain-ext identify unknown.wav --encoder pretrained \\
      --enrolments people.npz
  speechbrain-ext embed recordings/ --encoder pretrained --out embeddings.npz

{EXIT_CODES}
Set {ENCODER} to leave out --encoder.
speechbrain-ext COMMAND --help describes a command.
"""


def make_parser():
    """The parser of the command line.

    Returns
    -------
    argparse.ArgumentParser
        Its result has ``module`` and ``function``: what runs the subcommand.

    Example
    -------
    >>> words = ["verify", "a.wav", "b.wav", "--encoder", "pretrained"]
    >>> found = make_parser().parse_args(words)
    >>> found.function, found.first, found.device
    ('verify', 'a.wav', 'cpu')
    """
    parser = argparse.ArgumentParser(
        prog="speechbrain-ext",
        description="Speaker verification with a pretrained encoder.",
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"speechbrain-ext {_version()}"
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    _add_verify(commands)
    _add_enrol(commands)
    _add_identify(commands)
    _add_embed(commands)
    _add_score(commands)
    _add_info(commands)
    _add_convert(commands)
    _add_export(commands)
    _add_push(commands)
    _add_pull(commands)
    return parser


def _version():
    """The version of the installed package."""
    try:
        return importlib.metadata.version("speechbrain-ext")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _add(commands, name, module, about, examples, aliases=()):
    """Adds a subcommand with the options that all have."""
    examples = "\n".join(f"  {line}" for line in examples.splitlines())
    parser = commands.add_parser(
        name,
        aliases=aliases,
        help=about[0].lower() + re.split(r"\.\s|\.$", about[1:])[0],
        description=about,
        epilog=f"examples:\n{examples}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(module=module, function=name)
    _switch(parser, "--json", "print one JSON object instead of text")
    return parser


def _switch(parser, name, about):
    """Adds an option without a value."""
    parser.add_argument(name, action="store_true", help=about)


def _number(parser, name, kind, default, about):
    """Adds an option with a number."""
    if default is not None:
        about += f" (default {default:g})"
    metavar = "N" if kind is int else "X"
    parser.add_argument(
        name, type=kind, default=default, metavar=metavar, help=about
    )


def _add_encoder(parser, positional=False):
    """Adds the options that name an encoder."""
    about = "pretrained folder, or hf:owner/name on the Hugging Face Hub"
    if positional:
        parser.add_argument("folder", help=about)
    else:
        known = os.environ.get(ENCODER)
        parser.add_argument(
            "--encoder",
            metavar="FOLDER",
            default=known,
            required=known is None,
            help=f"{about}; default: the environment variable {ENCODER}",
        )
        parser.add_argument(
            "--device", default="cpu", help="cpu (default), cuda or cuda:1"
        )
    _switch(
        parser,
        "--trust",
        "let the folder run its own code; only if you know its author",
    )


def _add_decision(parser):
    """Adds the option that chooses the scoring."""
    parser.add_argument(
        "--scoring",
        metavar="NAME",
        help="cosine, asnorm or another scoring; default: asnorm if the folder "
        "has a cohort and a calibration of it, else cosine",
    )


def _add_enrolments(parser, required=True, more=""):
    """Adds the option that names the file of enrolments."""
    parser.add_argument(
        "--enrolments",
        metavar="FILE",
        required=required,
        help=f"file of enrolled speakers (.npz){more}",
    )


def _add_batches(parser):
    """Adds the options of commands that embed many files."""
    parser.add_argument(
        "--root",
        metavar="FOLDER",
        default="",
        help="where relative paths in lists start; default: here",
    )
    _number(
        parser,
        "--batch-seconds",
        float,
        16.0,
        "seconds of audio in a batch, with padding",
    )
    _number(
        parser, "--workers", int, 0, "processes that read audio; 0 is this one"
    )
    _switch(parser, "--quiet", "show no progress bar")


def _add_verify(commands):
    parser = _add(
        commands,
        "verify",
        "speakers",
        "Decides whether two files have the same speaker. With --enrolments, "
        "the first\nargument is the name of an enrolled speaker.",
        "speechbrain-ext verify one.wav other.flac --encoder pretrained\n"
        "speechbrain-ext verify ada unknown.wav --enrolments people.npz \\\n"
        "    --encoder pretrained --p-target 0.01",
    )
    parser.add_argument("first", help="audio file, or name of a speaker")
    parser.add_argument("second", help="audio file")
    _add_encoder(parser)
    _add_enrolments(parser, False, "; the first argument is then a name")
    _number(
        parser,
        "--p-target",
        float,
        None,
        "prior probability of the same speaker; needs a calibration in the "
        "folder (default 0.5 with one)",
    )
    _number(
        parser,
        "--threshold",
        float,
        None,
        "the speaker is the same if the score is greater; default: from the "
        "calibration, or SpeechBrain's 0.25 on the cosine",
    )
    _add_decision(parser)


def _add_enrol(commands):
    parser = _add(
        commands,
        "enrol",
        "speakers",
        "Enrols a speaker with one file or more. Several processes may change "
        "the\nsame file of enrolments.",
        "speechbrain-ext enrol ada ada_1.wav ada_2.wav --enrolments \\\n"
        "    people.npz --encoder pretrained\n"
        "speechbrain-ext enrol ada --remove --enrolments people.npz \\\n"
        "    --encoder pretrained",
        aliases=["enroll"],
    )
    parser.add_argument("name", help="name of the speaker")
    parser.add_argument("files", nargs="*", help="audio files of the speaker")
    _add_encoder(parser)
    _add_enrolments(parser)
    changes = parser.add_mutually_exclusive_group()
    _switch(changes, "--replace", "replace the enrolment of this name")
    _switch(changes, "--remove", "remove the speaker")


def _add_identify(commands):
    parser = _add(
        commands,
        "identify",
        "speakers",
        "Finds the speaker of a file among the enrolled ones, or nobody.",
        "speechbrain-ext identify unknown.wav --enrolments people.npz \\\n"
        "    --encoder pretrained --top 3 --json",
    )
    parser.add_argument("file", help="audio file")
    _add_encoder(parser)
    _add_enrolments(parser)
    _number(parser, "--top", int, 5, "candidates to show")
    _number(
        parser,
        "--p-known",
        float,
        None,
        "prior probability that the speaker is enrolled; needs a calibration "
        "in the folder (default 0.5 with one)",
    )
    _add_decision(parser)


def _add_embed(commands):
    parser = _add(
        commands,
        "embed",
        "embed",
        "Writes the embeddings of audio files. A source is a folder, an audio "
        "file, a\nlist with a path on each line, a table (CSV with ID and wav, "
        "such as\nSpeechBrain's manifests) or Kaldi's wav.scp. A file that "
        "cannot be used is\nan error, unless --max-failed allows it.",
        "speechbrain-ext embed recordings/ --encoder pretrained \\\n"
        "    --out embeddings.npz --max-failed 1%\n"
        "speechbrain-ext embed data/test/wav.scp --encoder pretrained \\\n"
        "    --out xvectors.ark",
    )
    parser.add_argument("sources", nargs="+", help="folders, files or lists")
    _add_encoder(parser)
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help=".npz; .parquet (needs pyarrow); or .ark, with its .scp (needs "
        "kaldiio)",
    )
    parser.add_argument(
        "--max-failed",
        default="0",
        metavar="N",
        help="files that may fail and are left out: a number, or a share such "
        "as 1%% (default 0)",
    )
    _add_batches(parser)


def _add_score(commands):
    parser = _add(
        commands,
        "score",
        "score",
        "Writes the score of each trial of a list. A line is `1|0 enrol test` "
        "(VoxCeleb),\n`enrol test target|nontarget` (Kaldi), or `enrol test` "
        "without labels.",
        "speechbrain-ext score veri_test2.txt --audio /data/VoxCeleb1/wav \\\n"
        "    --encoder pretrained --out scores.txt --scoring asnorm",
    )
    parser.add_argument("trials", help="the trial list")
    parser.add_argument(
        "--audio",
        nargs="+",
        required=True,
        metavar="SOURCE",
        help="folders, files or lists that have the utterances, as in embed",
    )
    _add_encoder(parser)
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="score file to write"
    )
    parser.add_argument(
        "--models",
        metavar="FILE",
        help="lines of `model utterance ...` (Kaldi's spk2utt): the first name "
        "of a trial is then a model",
    )
    _switch(
        parser,
        "--llr",
        "write log-likelihood ratios; needs a calibration in the folder",
    )
    parser.add_argument(
        "--form",
        choices=["wespeaker", "kaldi"],
        help="with the label as a fourth word (default where there are "
        "labels), or without",
    )
    _add_decision(parser)
    _add_batches(parser)


def _add_info(commands):
    parser = _add(
        commands,
        "info",
        "pretrained",
        "Says what a pretrained folder contains. Loading it checks its files.",
        "speechbrain-ext info pretrained --json",
    )
    _add_encoder(parser, positional=True)


def _add_convert(commands):
    parser = _add(
        commands,
        "convert",
        "pretrained",
        "Converts a published checkpoint to a pretrained folder. Only tensors "
        "are read\nfrom it.",
        "speechbrain-ext convert avg_model.pt pretrained --config config.yaml "
        "\\\n    --family wespeaker",
    )
    parser.add_argument("checkpoint", help="the file of weights")
    parser.add_argument("folder", help="folder to write")
    parser.add_argument(
        "--family",
        required=True,
        choices=["clova", "golden_gemini", "wespeaker"],
        help="where the checkpoint comes from",
    )
    named = parser.add_mutually_exclusive_group(required=True)
    named.add_argument("--config", metavar="YAML", help="the published YAML")
    named.add_argument(
        "--architecture", metavar="NAME", help="the published name"
    )
    _number(parser, "--input-size", int, None, "number of filterbanks")


def _add_export(commands):
    parser = _add(
        commands,
        "export",
        "pretrained",
        "Exports an encoder to ONNX, or by torch.export. The file is compared "
        "with torch\nbefore it is put in place.",
        "speechbrain-ext export pretrained --onnx encoder.onnx\n"
        "speechbrain-ext export pretrained --onnx wespeaker.onnx --features\n"
        "speechbrain-ext export pretrained --torch encoder.pt2",
    )
    _add_encoder(parser, positional=True)
    parser.add_argument(
        "--onnx", metavar="FILE", help="ONNX file to write (.onnx)"
    )
    parser.add_argument(
        "--torch", metavar="FILE", help="file of torch.export to write (.pt2)"
    )
    _switch(
        parser,
        "--features",
        "take filterbanks instead of waveforms, as WeSpeaker's runtime, "
        "pyannote.audio and sherpa-onnx do",
    )
    _switch(parser, "--int8", "weights of 8 bits (.onnx only)")
    _number(parser, "--opset", int, 18, "version of ONNX's operators")
    parser.add_argument(
        "--language",
        default="unknown",
        help="languages of the training data, for ONNX's metadata",
    )


def _add_push(commands):
    parser = _add(
        commands,
        "push",
        "sharing",
        "Uploads a pretrained folder to the Hugging Face Hub. The access token "
        "is that of\n`hf auth login`, or of the environment variable HF_TOKEN.",
        "speechbrain-ext push pretrained owner/name --private",
    )
    parser.add_argument("folder", help="the pretrained folder")
    parser.add_argument("repo_id", metavar="owner/name", help="on the Hub")
    _switch(parser, "--private", "only you may read it")
    parser.add_argument(
        "--revision", metavar="NAME", help="branch; default: main"
    )
    parser.add_argument("--message", help="message of the commit")


def _add_pull(commands):
    parser = _add(
        commands,
        "pull",
        "sharing",
        "Downloads a pretrained folder from the Hugging Face Hub. Nothing in "
        "it is run.",
        "speechbrain-ext pull owner/name pretrained",
    )
    parser.add_argument("repo_id", metavar="owner/name", help="on the Hub")
    parser.add_argument(
        "folder", nargs="?", help="folder to write; default: the Hub's cache"
    )
    parser.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit"
    )
    _switch(parser, "--offline", "use only the Hub's cache")
