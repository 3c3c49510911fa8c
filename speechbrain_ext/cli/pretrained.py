"""The subcommands ``convert``, ``export`` and ``info``."""

import logging
import pathlib

import torch

from speechbrain_ext.cli.answer import Answer
from speechbrain_ext.cli.encoders import open_verifier
from speechbrain_ext.inference.embedding import encoder_rate
from speechbrain_ext.inference.loading import load_encoder, training_speakers
from speechbrain_ext.inference.model_card import card_license
from speechbrain_ext.integrations.onnx import export_onnx, export_program
from speechbrain_ext.integrations.published_checkpoints import export_published
from speechbrain_ext.utils.files import require_own
from speechbrain_ext.utils.seals import seal_flaw, sealed_names

PRIORS = (0.5, 0.05, 0.01)  # of the thresholds that `info` shows


def write_exported(
    encoder, path, form="waveform", language="unknown", int8=False, opset=18
):
    """Writes an encoder as ONNX, or by torch.export for ``.pt2``.

    Arguments
    ---------
    encoder : speechbrain.inference.interfaces.Pretrained
        The encoder.
    path : str
        The file to write, ending in ``.onnx`` or ``.pt2``.
    form : str
        ``waveform`` or ``features``.
    language : str
        Languages of the training data, for ONNX's metadata.
    int8 : bool
        Whether the weights get 8 bits; ``.onnx`` only.
    opset : int
        Version of ONNX's operators.

    Returns
    -------
    float
        The lowest cosine of the file's embeddings to torch's.

    Raises
    ------
    ValueError
        If an argument is not valid, or the embeddings differ.
    ImportError
        If a package of the extra ``onnx`` is not installed.
    FileExistsError
        If the file exists and this project did not write it.
    """
    rate = encoder_rate(encoder)
    if str(path).endswith(".pt2") and not int8:
        return export_program(encoder.mods, path, form, rate)
    return export_onnx(encoder.mods, path, form, rate, language, int8, opset)


def export(arguments):
    """Exports an encoder for other runtimes.

    Arguments
    ---------
    arguments : argparse.Namespace
        Of the subcommand.

    Returns
    -------
    Answer
        What was written, and how close it is to torch.

    Raises
    ------
    ValueError
        If no file is named, or an option does not go with the file.
    """
    paths = [path for path in (arguments.onnx, arguments.torch) if path]
    if not paths:
        raise ValueError(
            "Name the file to write: --onnx=encoder.onnx, or "
            "--torch=encoder.pt2, or both."
        )
    if arguments.int8 and not arguments.onnx:
        raise ValueError("--int8 is only for ONNX; add --onnx=encoder.onnx.")
    endings = ((arguments.onnx, ".onnx"), (arguments.torch, ".pt2"))
    for path, ending in endings:
        if path and not path.endswith(ending):
            raise ValueError(f"The name must end in {ending}, got {path}.")
        if path:
            require_own(path)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    encoder = load_encoder(arguments.folder, trust=arguments.trust)
    form = "features" if arguments.features else "waveform"
    cosines = {
        path: write_exported(
            encoder,
            path,
            form,
            arguments.language,
            arguments.int8 and path == arguments.onnx,
            arguments.opset,
        )
        for path in paths
    }
    return Answer(
        "\n".join(
            f"{path}: {form} to embedding, lowest cosine to torch's "
            f"embeddings {cosine:.6f}"
            for path, cosine in cosines.items()
        ),
        {"form": form, "lowest_cosine": cosines},
    )


def convert(arguments):
    """Converts a published checkpoint to a pretrained folder.

    Arguments
    ---------
    arguments : argparse.Namespace
        Of the subcommand.

    Returns
    -------
    Answer
        The folder.
    """
    folder = export_published(
        arguments.family,
        arguments.checkpoint,
        arguments.folder,
        arguments.config,
        arguments.architecture,
        arguments.input_size,
    )
    text = (
        f"{folder}: a pretrained folder; speechbrain-ext info {folder} shows "
        "what is in it. The weights keep the licence of their authors."
    )
    return Answer(text, {"folder": str(folder)})


def info(arguments):
    """Says what a pretrained folder contains.

    Arguments
    ---------
    arguments : argparse.Namespace
        Of the subcommand.

    Returns
    -------
    Answer
        The properties.
    """
    verifier = open_verifier(arguments.folder, trust=arguments.trust)
    values = describe(verifier)
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            value = [f"{key}: {_shown(held)}" for key, held in value.items()]
        else:
            value = [_shown(value)]
        for number, line in enumerate(value or ["none"]):
            head = "" if number else name.replace("_", " ")
            lines.append(f"{head:<20}{line}")
    return Answer("\n".join(lines), values)


def describe(verifier):
    """The properties of an encoder and of its folder.

    Arguments
    ---------
    verifier : speechbrain_ext.inference.speaker.SpeakerVerifier
        The encoder, from a folder.

    Returns
    -------
    dict
        Values by name, for JSON.
    """
    folder, network = verifier.folder, verifier.mods.embedding_model
    card = folder / "README.md"
    rate = encoder_rate(verifier)
    noise = torch.randn(1, rate, generator=torch.Generator().manual_seed(0))
    size = verifier.encode_batch(0.1 * noise.to(verifier.device)).shape[-1]
    front_end = verifier.mods.compute_features
    front_end = getattr(front_end, "front_end", front_end)
    thresholds = {
        name: _thresholds(calibration)
        for name, calibration in verifier.decisions.calibrations.items()
    }
    back_end = verifier.decisions.back_end
    cohort = None
    if back_end.cohort is not None:
        cohort = {"speakers": len(back_end.cohort), "top_n": back_end.top_n}
    return {
        "folder": str(folder),
        "architecture": type(network).__name__,
        "parameters": sum(one.numel() for one in network.parameters()),
        "embedding_size": size,
        "sample_rate": rate,
        "front_end": type(front_end).__name__,
        "training_speakers": len(training_speakers(verifier) or ()),
        "fingerprint": verifier.fingerprint,
        "checksums": _checksums(folder),
        "license": (card.is_file() and card_license(card)) or "unknown",
        "thresholds": thresholds,
        "cohort": cohort,
    }


def _thresholds(calibration):
    """The thresholds of a calibration by prior, or why there are none."""
    if len(calibration.features) != 1:
        return "no single threshold: it uses quality measures too"
    return {str(prior): calibration.threshold(prior) for prior in PRIORS}


def _checksums(folder):
    """Whether the files have the checksums of the folder."""
    names = [
        name
        for name in sorted(sealed_names(folder))
        if (folder / name).exists()
        # a pulled folder has only one form of its weights
        or not any(folder.glob(f"{pathlib.Path(name).stem}.*"))
    ]
    return (seal_flaw(folder, names) or "ok") if names else "none"


def _shown(value):
    """A value for people."""
    if isinstance(value, dict):
        return ", ".join(f"{_shown(v)} at {k}" for k, v in value.items())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str("none" if value is None else value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
