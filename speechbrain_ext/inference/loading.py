"""Loading of pretrained encoders from disk or from the Hugging Face Hub."""

import contextlib
import os
import pathlib
import re

import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml.error import YAMLError
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.checkpoints import (
    DEFAULT_TRANSFER_HOOKS,
    get_default_hook,
    hook_on_loading_state_dict_checkpoint,
    torch_parameter_transfer,
)
from speechbrain.utils.fetching import FetchConfig
from speechbrain.utils.logger import get_logger
from speechbrain.utils.parameter_transfer import Pretrainer

from speechbrain_ext.inference.downloads import HUB, download_pretrained
from speechbrain_ext.inference.folder_checks import refuse_run_folder
from speechbrain_ext.inference.safe_loading import load_folder
from speechbrain_ext.inference.safe_weights import read_untrusted_tensors
from speechbrain_ext.utils.tensors import read_tensors

logger = get_logger(__name__)

SPEED = re.compile(r"#speed[\d.]+$")  # suffix of a speed-perturbed speaker
# What an unusable hyperparams.yaml raises
YAML_ERRORS = (
    TypeError,
    KeyError,
    ValueError,
    AttributeError,
    ImportError,
    RuntimeError,
    YAMLError,
    yaml.YAMLError,
)


def pretrained_folder(source):
    """The folder of a pretrained encoder, downloaded if necessary.

    Arguments
    ---------
    source : str | pathlib.Path
        A folder with a hyperparams.yaml, or ``hf:owner/name`` for a model on
        the Hugging Face Hub, which is downloaded to the Hub's cache. Without
        ``hf:`` the network is not used.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    FileNotFoundError
        If the folder has no hyperparams.yaml.
    OSError
        If the model cannot be downloaded.
    ValueError
        If a downloaded file is refused, see ``download_pretrained``, or the
        folder is the output folder of a training.

    Example
    -------
    >>> pretrained_folder("speechbrain/spkrec-ecapa-voxceleb")
    Traceback (most recent call last):
    FileNotFoundError: ...has no hyperparams.yaml...
    """
    name = str(source)
    if name.startswith(HUB):
        folder = download_pretrained(name.removeprefix(HUB))
    else:
        folder = name
    folder = pathlib.Path(folder)
    refuse_run_folder(folder)
    if not (folder / "hyperparams.yaml").is_file():
        raise FileNotFoundError(
            f"The pretrained folder {name} has no hyperparams.yaml; train "
            "first, pass the folder `pretrained` of a training, or write "
            "hf:owner/name for a model on the Hugging Face Hub."
        )
    return folder


def load_encoder(source, run_opts=None, trust=False):
    """Loads a pretrained encoder with SpeechBrain's interface.

    It differs from ``EncoderClassifier.from_hparams`` in that files are read
    in place, each one is searched beside hyperparams.yaml, and weights that
    are missing or not finite raise an error. No code of the folder is run,
    see ``load_folder``. With ``trust``, hyperparams.yaml can build any Python
    class and call any function, as it can in SpeechBrain.

    Arguments
    ---------
    source : str | pathlib.Path
        A folder, or ``hf:owner/name``, see ``pretrained_folder``.
    run_opts : dict | speechbrain.utils.run_opts.RunOptions
        SpeechBrain's options, such as ``{"device": "cuda"}``.
    trust : bool
        Whether the folder may run code.

    Returns
    -------
    speechbrain.inference.classifiers.EncoderClassifier
        The encoder, frozen and in evaluation mode.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    OSError
        If a model on the Hub cannot be downloaded.
    ValueError
        If the YAML or a file of weights is not valid, or the device does not
        exist.

    Example
    -------
    >>> load_encoder("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: The pretrained folder no/such/folder has no...
    """
    require_device(_device(run_opts))
    folder = pretrained_folder(source)
    if not trust:
        needed = EncoderClassifier.MODULES_NEEDED
        loaded = load_folder(folder, needed=needed)
        return EncoderClassifier(
            modules=loaded.modules, hparams=loaded.hparams, run_opts=run_opts
        )
    hparams = _hparams(folder / "hyperparams.yaml")
    pretrainer = hparams["pretrainer"]
    for name, thing in pretrainer.loadables.items():
        if pretrainer.is_loadable(name):
            path = _file_of(name, pretrainer.paths.get(name), folder)
            _load(name, thing, path, pretrainer.custom_hooks)
    hparams["savedir"] = None
    return EncoderClassifier(
        modules=hparams["modules"], hparams=hparams, run_opts=run_opts
    )


def training_speakers(encoder):
    """The speakers that an encoder was trained on, from its label map.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder.

    Returns
    -------
    set of str
        Names, without the suffixes of speed perturbation; None if the label
        map is missing or empty.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> labels = CategoricalEncoder()
    >>> labels.update_from_iterable(["a", "a#speed0.9"])
    >>> hparams = SimpleNamespace(label_encoder=labels)
    >>> training_speakers(SimpleNamespace(hparams=hparams))
    {'a'}
    """
    labels = getattr(encoder.hparams, "label_encoder", None)
    names = getattr(labels, "lab2ind", {})
    return {SPEED.sub("", str(name)) for name in names} or None


def read_weights(path):
    """Reads a file of weights without running code from it.

    Arguments
    ---------
    path : str | pathlib.Path
        A state dict that ``torch.save`` wrote.

    Returns
    -------
    dict
        Tensors by name, on the CPU.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file does not have finite weights.

    Example
    -------
    >>> path = getfixture("tmp_path") / "classifier.ckpt"
    >>> torch.save({"weight": torch.tensor([float("nan")])}, path)
    >>> read_weights(path)
    Traceback (most recent call last):
    ValueError: ...classifier.ckpt has weights that are not finite...
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The file of weights {path} does not exist.")
    safe = path.suffix == ".safetensors"
    state = (read_untrusted_tensors if safe else read_tensors)(path)
    if not isinstance(state, dict):
        raise ValueError(
            f"{path} must be a state dict, got a {type(state).__name__}; "
            "export it again."
        )
    bad = [
        str(name)
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and not value.isfinite().all()
    ]
    if bad:
        raise ValueError(
            f"{path} has weights that are not finite in {len(bad)} of "
            f"{len(state)} tensors ({', '.join(bad[:3])}); the training "
            "diverged: use an earlier checkpoint, or train again."
        )
    return state


def require_device(device):
    """Raises if a device cannot be used.

    Arguments
    ---------
    device : str
        A name such as ``cpu`` or ``cuda:0``; None is valid too.

    Raises
    ------
    ValueError
        If it is not a device of this machine.

    Example
    -------
    >>> require_device("gpu")
    Traceback (most recent call last):
    ValueError: `device` gpu cannot be used...
    """
    if device is None:
        return
    try:
        if (
            torch.device(device).type == "cuda"
            and not torch.cuda.is_available()
        ):
            raise RuntimeError("torch finds no GPU")
        torch.zeros(1, device=device) + 1
    # without support for a device torch raises any of these
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(
            f"`device` {device} cannot be used ({_one_line(error)}); pass "
            "--device=cpu, or a device of this machine."
        ) from error


@contextlib.contextmanager
def explain_torch_errors(what):
    """Turns torch's errors into one clear message.

    Arguments
    ---------
    what : str
        Name of the results, in the plural.

    Yields
    ------
    None

    Raises
    ------
    ValueError
        If the block raises a RuntimeError, for example because torch is out
        of memory.

    Example
    -------
    >>> with explain_torch_errors("The embeddings"):
    ...     raise torch.OutOfMemoryError("CUDA out of memory.")
    Traceback (most recent call last):
    ValueError: The embeddings cannot be computed: CUDA out of memory. Lower...
    """
    try:
        yield
    except (ValueError, OSError):  # some are RuntimeErrors too
        raise
    except RuntimeError as error:
        remedy = ""
        if "memory" in str(error):
            remedy = " Lower `batch_seconds`, or pass --device=cpu."
        raise ValueError(
            f"{what} cannot be computed: {_one_line(error)}{remedy}"
        ) from error


def _device(run_opts):
    """The requested device, or None."""
    if run_opts is None:
        return None
    if isinstance(run_opts, dict):
        return run_opts.get("device")
    return run_opts["device"]


def _hparams(path):
    """The objects of a pretrained folder's YAML."""
    try:
        with open(path, encoding="utf-8") as stream:
            hparams = load_hyperpyyaml(stream)
    except YAML_ERRORS as error:
        # hyperpyyaml puts the place in front of the constructor's message
        said = "; ".join(" ".join(str(a).split()) for a in error.args)
        raise ValueError(
            f"{path} cannot be used ({said or _one_line(error)}); export the "
            "folder again."
        ) from error
    keys = hparams if isinstance(hparams, dict) else {}
    if not isinstance(keys.get("pretrainer"), Pretrainer) or not isinstance(
        keys.get("modules"), dict
    ):
        raise ValueError(
            f"{path} must have the keys `modules` and `pretrainer`, which "
            "SpeechBrain's pretrained interfaces need; pass the folder "
            "`pretrained` of a training, not its output folder."
        )
    missing = set(EncoderClassifier.MODULES_NEEDED) - set(keys["modules"])
    if missing:
        raise ValueError(
            f"{path} must have {', '.join(sorted(missing))} under `modules`; "
            "pass the folder of a speaker encoder."
        )
    return hparams


def _file_of(name, named, folder):
    """The file of a module: beside the YAML, or at the path in the YAML."""
    places = [folder / f"{name}.ckpt", folder / f"{name}.safetensors"]
    if named is not None:
        named = str(getattr(named, "path", named))
        places += [folder / pathlib.PurePosixPath(named).name, named]
    for place in map(pathlib.Path, places):
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"The pretrained folder {folder} has no {places[0].name}; export or "
        "download it again."
    )


def _load(name, thing, path, hooks):
    """Loads one file into a module or a label map."""
    if isinstance(thing, CategoricalEncoder):
        _load_labels(thing, path)
        return
    plain = get_default_hook(thing, DEFAULT_TRANSFER_HOOKS)
    if name in hooks or plain is not torch_parameter_transfer:
        one = Pretrainer(
            loadables={name: thing},
            paths={name: path.absolute().as_posix()},
            custom_hooks=hooks,
        )
        one.collect_files(fetch_config=FetchConfig(allow_network=False))
        one.load_collected()
        return
    state = hook_on_loading_state_dict_checkpoint(read_weights(path))
    try:
        found = thing.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit the folder's hyperparams.yaml: "
            f"{' '.join(str(error).split())} Export the folder again."
        ) from error
    missing = [
        key for key in found.missing_keys if "num_batches_tracked" not in key
    ]
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} tensors of the folder's "
            f"hyperparams.yaml, for example {missing[0]}; export it again."
        )
    if found.unexpected_keys:
        logger.warning(
            f"{path} has {len(found.unexpected_keys)} tensors that are not in "
            f"the modules of hyperparams.yaml, for example "
            f"{found.unexpected_keys[0]}; they are ignored."
        )


def _load_labels(labels, path):
    """Loads a label map. SpeechBrain would ignore a broken one."""
    try:
        labels.load(path)
    except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError(
            f"The label map {path} is damaged ({_one_line(error)}); export "
            "or download it again."
        ) from error


def _one_line(error):
    """The first line of an error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def source_path(source):
    """The folder of a source, or a name that SpeechBrain looks up on the Hub.

    Arguments
    ---------
    source : str | pathlib.Path
        A folder, ``hf:owner/name``, or ``owner/name``.

    Returns
    -------
    str
        The folder, downloaded if it begins with ``hf:``; a name as it is.

    Raises
    ------
    FileNotFoundError
        If it can only be a folder, and does not exist.

    Example
    -------
    >>> source_path("/no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: The folder /no/such/folder does not exist; ...
    """
    source = os.fspath(source)
    if source.startswith(HUB):
        return os.fspath(pretrained_folder(source))
    if source.count("/") > 1 and not os.path.isdir(source):
        raise FileNotFoundError(
            f"The folder {source} does not exist; check its path."
        )
    return source
