"""Published checkpoints as SpeechBrain modules and pretrained folders.

    python -m speechbrain_ext.utils.conversion --family wespeaker \
        --config config.yaml --checkpoint avg_model.pt --output_folder DIR

Only tensors are read; code is never run. If keys do not fit, the error message
lists all of them.
"""

import argparse
import functools
import hashlib
import pathlib
import sys

import torch
from speechbrain.dataio.encoder import CategoricalEncoder

from speechbrain_ext.inference.export import (
    export_pretrained,
    require_exportable,
)
from speechbrain_ext.inference.model_card import USE, front_matter
from speechbrain_ext.integrations import clova, golden_gemini, wespeaker
from speechbrain_ext.integrations.state_dicts import (
    MOST_BANDS,
    network_tensors,
    read_checkpoint,
    renamed_key,
)
from speechbrain_ext.utils.home import expand_home
from speechbrain_ext.utils.yaml_files import read_yaml

CARD = """\
# {architecture}, converted

A speaker encoder for SpeechBrain, converted by speechbrain_ext from a
checkpoint of {origin}. The weights belong to its authors and are under their
licence.

| | |
|---|---|
| family | {family} |
| architecture | {architecture} |
| checkpoint | {checkpoint} |
| SHA-256 | {digest} |
| parameters | {parameters} |
| front end | {front}, {sample_rate} Hz |

{use}"""
ORIGINS = {
    "wespeaker": "WeSpeaker (github.com/wenet-e2e/wespeaker)",
    "golden_gemini": "Golden Gemini (Liu et al., TASLP 2024)",
    "clova": "Clova's trainer (github.com/clovaai/voxceleb_trainer)",
}

# What the front ends of all families do, by the place in a published config
FRONT_END = {
    "dataset_args.frontend": "fbank",
    "dataset_args.cmvn": True,
    "dataset_args.cmvn_args.norm_mean": True,
    "dataset_args.cmvn_args.norm_var": False,
    "dataset_args.fbank_args.frame_length": 25,
    "dataset_args.fbank_args.frame_shift": 10,
    "log_input": True,
}


def describe_checkpoint(family, architecture, state_dict, input_size=None):
    """Describes the modules of a published checkpoint.

    Arguments
    ---------
    family : str
        ``wespeaker``, ``golden_gemini`` or ``clova``.
    architecture : str or dict
        The published name, or the arguments of a ``ResNet``.
    state_dict : dict
        Tensors by their published keys.
    input_size : int
        Number of filterbanks; None to infer it from the tensors.

    Returns
    -------
    blocks : dict
        (maker, arguments) of compute_features, mean_var_norm and
        embedding_model.
    tensors : dict
        (published key, tensor) by the key of the embedding model.

    Raises
    ------
    ValueError
        If the family or architecture is unknown, a key that determines the
        sizes is missing, or a value is not a dense tensor of finite numbers.
    """
    families = {
        "wespeaker": wespeaker.describe,
        "golden_gemini": golden_gemini.describe,
        "clova": clova.describe,
    }
    if family not in families:
        raise ValueError(
            f"`family` must be one of {sorted(families)}, got {family!r}."
        )
    if isinstance(input_size, bool) or not (
        input_size is None
        or (isinstance(input_size, int) and 1 <= input_size <= MOST_BANDS)
    ):
        raise ValueError(
            f"`input_size` must be an integer from 1 to {MOST_BANDS}, got "
            f"{input_size!r}; it is the number of filterbanks, usually 80."
        )
    state_dict = network_tensors(state_dict)

    def tensor(key, dimensions=2):
        what = f"of family {family!r} and architecture {architecture!r}"
        if key not in state_dict:
            raise ValueError(f"The checkpoint lacks '{key}': it is not {what}.")
        shape = list(state_dict[key].shape)
        if len(shape) != dimensions or 0 in shape:
            raise ValueError(
                f"The checkpoint's '{key}' must have {dimensions} dimensions, "
                f"each larger than 0, got the shape {shape}: it is not {what}."
            )
        return state_dict[key]

    blocks, keys = families[family](architecture, tensor, input_size)
    bands = blocks["embedding_model"][1]["input_size"]
    if not 1 <= bands <= MOST_BANDS:
        raise ValueError(
            f"The sizes of the checkpoint's tensors give {bands} filterbanks, "
            f"which must be 1 to {MOST_BANDS}; pass `input_size`, or check the "
            "family and the architecture."
        )
    return blocks, {
        renamed_key(key, keys): (key, value)
        for key, value in state_dict.items()
    }


def convert_checkpoint(family, architecture, state_dict, input_size=None):
    """Builds the modules of a published checkpoint and loads its weights.

    Arguments
    ---------
    family : str
        Source of the checkpoint: ``wespeaker``, ``golden_gemini`` or
        ``clova``.
    architecture : str or dict
        The published name, followed by the pooling if it is not the usual
        one: ``ResNet34``, ``ResNet34_ASTP``, ``Gemini_DF_ResNet114``;
        ``Gemini_df_resnet60``; ``ResNetSE34L_SAP``, ``ResNetSE34V2_ASP``,
        ``VGGVox_MAX``. For WeSpeaker also the arguments of a ``ResNet`` as a
        dict.
    state_dict : dict
        Tensors by their published keys. A training head (``projection.*``)
        is ignored.
    input_size : int
        Number of filterbanks. None to infer it from the tensors as a multiple
        of 8 (DF-ResNets: 16), or to use Clova's published 40 or 64.

    Returns
    -------
    torch.nn.ModuleDict
        ``compute_features``, ``mean_var_norm`` and ``embedding_model``, the
        names in SpeechBrain's interface; of the weights' type, or float32.

    Raises
    ------
    ValueError
        If the family or architecture is unknown, or keys are missing,
        unexpected or of another shape. The message lists all of these keys.

    Example
    -------
    >>> state = {"conv1.weight": torch.zeros(4, 1, 3, 3)}
    >>> convert_checkpoint("wespeaker", "ResNet34", state)
    Traceback (most recent call last):
        ...
    ValueError: The checkpoint lacks 'seg_1.weight': it is not of family \
'wespeaker' and architecture 'ResNet34'.
    """
    blocks, tensors = describe_checkpoint(
        family, architecture, state_dict, input_size
    )
    # check on the meta device first: unknown sizes may need too much memory
    maker, arguments = blocks["embedding_model"]
    with torch.device("meta"):
        _check_fit(maker(**arguments), tensors)
    modules = torch.nn.ModuleDict(
        {key: maker(**arguments) for key, (maker, arguments) in blocks.items()}
    )
    # of all modules, so that they can be chained
    kinds = [v.dtype for _, v in tensors.values() if v.is_floating_point()]
    modules.to(functools.reduce(torch.promote_types, kinds, torch.float32))
    modules["embedding_model"].load_state_dict(
        {key: value for key, (_, value) in tensors.items()}
    )
    return modules


def _check_fit(model, tensors):
    """Raises for all keys that do not fit a model.

    Arguments
    ---------
    model : torch.nn.Module
        The model; it may be on the meta device.
    tensors : dict
        (published key, tensor) by the model's own key.
    """
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in tensors]
    for key, (published, value) in tensors.items():
        if key not in own:
            problems.append(f"unexpected {published}")
        elif own[key].shape != value.shape:
            problems.append(
                f"{published} of shape {list(value.shape)} instead of "
                f"{list(own[key].shape)}"
            )
        elif key.endswith("running_var") and (value < 0).any():
            problems.append(f"{published} is a variance below 0")
    if problems:
        raise ValueError(
            f"The checkpoint does not fit the architecture in {len(problems)} "
            "places: " + "; ".join(problems) + "."
        )


def export_checkpoint(
    family,
    architecture,
    checkpoint,
    folder,
    input_size=None,
    sample_rate=16000,
):
    """Writes a pretrained folder from the file of a published checkpoint.

    Arguments
    ---------
    family : str
        Source of the checkpoint, see ``convert_checkpoint``.
    architecture : str
        The published name, see ``convert_checkpoint``.
    checkpoint : str
        The file. Only tensors are read.
    folder : str
        The folder to write, for ``SpeakerRecognition.from_hparams``.
    input_size : int
        Number of filterbanks; None to infer it from the tensors.
    sample_rate : int
        Sample rate that the network was trained with, Hz.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    ValueError
        If the file is missing or truncated, contains code or a number that is
        not finite, or does not fit.
    FileExistsError
        If the folder cannot be replaced, see ``require_exportable``.
    """
    checkpoint = pathlib.Path(checkpoint)
    require_exportable(folder, card=True)
    state_dict = read_checkpoint(checkpoint)
    blocks, _ = describe_checkpoint(
        family, architecture, state_dict, input_size
    )
    modules = convert_checkpoint(
        family, architecture, state_dict, input_size
    ).float()
    model = modules["embedding_model"]
    size = model.embedding.out_features
    if sample_rate != 16000:  # the front ends' default
        blocks["compute_features"][1]["sample_rate"] = sample_rate
    recipe = f"sample_rate: {sample_rate}\n"
    recipe += "".join(_yaml(key, *block) for key, block in blocks.items())
    recipe += "classifier: !name:torch.nn.Identity\n"
    card = front_matter("other") + CARD.format(
        family=family,
        architecture=architecture,
        origin=ORIGINS[family],
        checkpoint=checkpoint.name,
        digest=hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        front=type(modules["compute_features"]).__name__,
        use=USE,
        sample_rate=sample_rate,
    )
    return export_pretrained(
        folder,
        recipe,
        {"embedding_model": model, "classifier": torch.nn.Identity()},
        CategoricalEncoder(),
        size,
        card,
    )


def _yaml(key, maker, arguments):
    """A module as a block of a YAML."""
    lines = [f"{key}: !new:{maker.__module__}.{maker.__qualname__}"]
    for name, value in arguments.items():
        if isinstance(value, functools.partial):
            value, more = value.func, value.keywords
        else:
            more = {}
        if isinstance(value, type):
            value = f"!name:{value.__module__}.{value.__qualname__}"
        elif isinstance(value, (list, tuple)):
            value = [list(v) if isinstance(v, tuple) else v for v in value]
        lines.append(f"    {name}: {value}")
        lines += [f"        {k}: {v!r}" for k, v in more.items()]
    return "\n".join(lines) + "\n"


def _config(path, family):
    """Architecture, filterbanks and sample rate of a published config."""
    config = read_yaml(path)
    if "model" not in config:
        raise ValueError(f"{path} lacks the key 'model'; pass --architecture.")
    arguments = config.get("model_args", config)
    if not isinstance(arguments, dict):
        raise ValueError(
            f"`model_args` of {path} must be a block of keys, got "
            f"{arguments!r}; pass --architecture."
        )
    name = config["model"]
    pool = arguments.get("pooling_func", arguments.get("encoder_type")) or ""
    for key, value in (("model", name), ("pooling_func", pool)):
        if not isinstance(value, str):
            raise ValueError(
                f"`{key}` of {path} must be a name, got {value!r}; pass "
                "--architecture."
            )
    if pool and not name.startswith("Gemini"):
        name = f"{name}_{pool}"
    defaults = FRONT_END | {"log_input": family != "clova"}
    for place, wanted in FRONT_END.items():
        if (found := _value(config, place, defaults[place])) != wanted:
            raise ValueError(
                f"`{place}` of {path} must be {wanted!r}, got {found!r}: this "
                "package has no such front end, so it cannot be converted."
            )
    rate = _value(config, "dataset_args.resample_rate", 16000)
    if type(rate) is not int or rate < 1000:
        raise ValueError(
            f"`dataset_args.resample_rate` of {path} must be a whole number "
            f"of Hz, at least 1000, got {rate!r}; usual are 16000 and 8000."
        )
    return name, arguments.get("feat_dim", arguments.get("n_mels")), rate


def _value(config, place, default):
    """The value at a place such as ``dataset_args.cmvn``."""
    for key in place.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return default if config is None else config


def export_published(
    family,
    checkpoint,
    folder,
    config=None,
    architecture=None,
    input_size=None,
):
    """Writes a pretrained folder by a published config, or by a name.

    Arguments
    ---------
    family : str
        Source of the checkpoint, see ``convert_checkpoint``.
    checkpoint : str
        The file. Only tensors are read.
    folder : str
        The folder to write.
    config : str
        The published YAML: architecture, sample rate; None for 16 kHz.
    architecture : str
        The published name, if there is no config.
    input_size : int
        Number of filterbanks; None for that of the config, or to infer it
        from the tensors.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    ValueError
        If the config or the file is not valid, or does not fit.
    OSError
        If a file cannot be read or written.
    """
    sample_rate = 16000
    if config:
        architecture, mels, sample_rate = _config(config, family)
        input_size = mels if input_size is None else input_size
    return export_checkpoint(
        family, architecture, checkpoint, folder, input_size, sample_rate
    )


def main(argv=None):
    """Converts a checkpoint with options from the command line.

    Arguments
    ---------
    argv : list of str
        The command line; defaults to that of this process.

    Returns
    -------
    pathlib.Path
        The written folder.
    """
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--family", required=True, choices=sorted(ORIGINS))
    named = parser.add_mutually_exclusive_group(required=True)
    named.add_argument("--config", help="the published YAML")
    named.add_argument("--architecture", help="the published name")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--output_folder", required=True)
    parser.add_argument("--input_size", type=int, help="filterbanks")
    arguments = parser.parse_args(expand_home(argv))
    try:
        folder = export_published(
            arguments.family,
            arguments.checkpoint,
            arguments.output_folder,
            arguments.config,
            arguments.architecture,
            arguments.input_size,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    return folder
