"""Loading of pretrained folders whose author is not known.

SpeechBrain's ``from_hparams`` builds whatever hyperparams.yaml names, so it can
run any code. Here only listed classes are built and only tensors are read.
"""

import dataclasses
import pathlib

import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import hook_on_loading_state_dict_checkpoint
from speechbrain.utils.logger import get_logger
from speechbrain.utils.run_opts import RunOptions
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from speechbrain_ext.dataio.speaker_labels import read_label_map
from speechbrain_ext.inference.allowed_classes import PretrainerFiles
from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.inference.folder_checks import (
    check_files,
    check_sums,
    require_small,
)
from speechbrain_ext.inference.safe_weights import (
    check_fit,
    has_safetensors,
    read_statistics,
    read_untrusted_tensors,
    require_finite,
)
from speechbrain_ext.inference.safe_yaml import NAME, SafeYaml
from speechbrain_ext.processing.calibration import load_calibrations
from speechbrain_ext.utils.devices import check_device

logger = get_logger(__name__)

NEEDED = ("compute_features", "mean_var_norm", "embedding_model")
SLACK = 2**26  # bytes that modules without weights may need, such as filters
MOST_OPERATIONS = 10**4  # of the constructors; ResNet293 needs 3,300
REMEDY = "if you trust its author, pass --trust"


@dataclasses.dataclass
class LoadedFolder:
    """What ``load_folder`` reads.

    ``Interface(modules=loaded.modules, hparams=loaded.hparams)`` makes any of
    SpeechBrain's pretrained interfaces of it.

    Arguments
    ---------
    modules : torch.nn.ModuleDict
        ``compute_features``, ``mean_var_norm``, ``embedding_model`` and the
        folder's other modules, in evaluation mode.
    hparams : dict
        All values and objects of hyperparams.yaml, by key.
    label_names : list of str
        Labels of the classifier in the order of their numbers.
    calibrations : dict
        ``Calibration`` by the name of its scoring.
    fingerprint : str
        See ``model_fingerprint``.

    Example
    -------
    >>> LoadedFolder(torch.nn.ModuleDict(), {}, [], {}, "0f").label_names
    []
    """

    modules: object
    hparams: dict
    label_names: list
    calibrations: dict
    fingerprint: str


def load_folder(path, device="cpu", needed=NEEDED):
    """Loads a pretrained folder without trust in its author.

    Only classes of a list are built (``allowed_classes``), only tensors are
    read, no link is followed out of the folder and no network is used. Sizes
    are checked on torch's meta device before memory is allocated.

    Arguments
    ---------
    path : str | pathlib.Path
        The folder.
    device : str
        Where the modules are put.
    needed : iterable of str
        Names of modules that the folder must have.

    Returns
    -------
    LoadedFolder
        The modules and everything else that the folder has.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    OSError
        If a file cannot be read.
    ValueError
        If something is refused or does not fit. The message says what.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> text = "a: !apply:os.system [reboot]"
    >>> _ = (folder / "hyperparams.yaml").write_text(text)
    >>> load_folder(folder)
    Traceback (most recent call last):
    ValueError: ...hyperparams.yaml cannot be used (line 1: the tag \
!apply:os.system is refused; only !new, !name and !ref are read without \
trust)...
    """
    check_device(str(device))
    folder = pathlib.Path(path)
    check_files(folder)
    yaml = folder / "hyperparams.yaml"
    try:
        plan = SafeYaml(yaml)
        with torch.device("meta"), _Valueless():
            sketch = _build(plan, yaml, _largest(folder))
        _check_keys(sketch, yaml, needed)
    except ValueError as error:
        raise _cannot_be_used(yaml, error) from error
    files = _files(folder, sketch["pretrainer"])
    states = _states(files, sketch)
    with torch.random.fork_rng(devices=[]):
        hparams = _build(plan, yaml, _largest(folder))
    loadables = hparams.pop("pretrainer").loadables
    labels = []
    for name, file in files.items():
        if isinstance(loadables[name], CategoricalEncoder):
            labels = _label_names(file, loadables[name])
            _check_labels(file, labels, hparams["modules"])
        else:
            _put(loadables[name], states[name], file)
    check_sums(folder, files)  # last: other errors say more
    modules = torch.nn.ModuleDict(hparams["modules"]).eval()
    for module in modules.values():
        module.to(device)  # statistics are moved by the module's own method
    return LoadedFolder(
        modules.requires_grad_(False),
        {**hparams, "savedir": None},
        labels,
        _calibrations(folder),
        model_fingerprint(folder),
    )


def _largest(folder):
    """Bytes that the folder's modules may need."""
    sizes = [
        file.stat().st_size
        for file in folder.iterdir()
        if file.suffix in (".ckpt", ".safetensors")
    ]
    return 2 * sum(sizes) + 2 * SLACK


class _Valueless(TorchFunctionMode):
    """Reads 0 from tensors of the meta device, which have no values."""

    READS = {
        torch.Tensor.item: 0,
        torch.Tensor.__bool__: False,
        torch.Tensor.__int__: 0,
        torch.Tensor.__float__: 0.0,
    }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Runs a function of torch, or gives 0 instead of a value."""
        if func in self.READS and args[0].is_meta:
            return self.READS[func]
        return func(*args, **(kwargs or {}))


class _Budget(TorchDispatchMode):
    """Stops constructors that allocate too much or never end."""

    def __init__(self, largest):
        super().__init__()
        self.left, self.operations = largest, MOST_OPERATIONS

    @classmethod
    def _should_skip_dynamo(cls):
        """Keeps torch from importing its compiler: 2 s and 130 MB."""
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Runs an operation and counts what it allocates."""
        self.operations -= 1
        out = func(*args, **(kwargs or {}))
        if not any(returned.alias_info for returned in func._schema.returns):
            for one in tree_leaves(out):
                if isinstance(one, torch.Tensor):
                    self.left -= one.numel() * one.element_size()
        if self.left < 0 or self.operations < 0:
            raise ValueError(
                "its modules are much larger than the folder's weights"
            )
        return out


def _build(plan, path, largest):
    """The objects of the YAML; on the meta device nothing is allocated."""
    try:
        with _Budget(largest):
            return plan.build()
    except Exception as error:  # hostile arguments can raise anything
        raise _cannot_be_used(path, error) from error


def _cannot_be_used(path, error):
    said = " ".join(str(error).split()) or type(error).__name__
    if said.startswith(str(path)):
        return ValueError(said)
    said = said if len(said) <= 400 else said[:400] + "..."
    return ValueError(
        f"{path} cannot be used ({said}); export the folder again, or, "
        f"{REMEDY}."
    )


def _check_keys(hparams, path, needed):
    """Raises unless the YAML has the keys that interfaces need."""
    modules = hparams.get("modules")
    if not isinstance(modules, dict) or not isinstance(
        hparams.get("pretrainer"), PretrainerFiles
    ):
        raise ValueError(
            f"{path} must have the keys `modules` and `pretrainer`, which "
            "SpeechBrain's pretrained interfaces need; pass the folder "
            "`pretrained` of a training, not its output folder."
        )
    options = sorted(set(RunOptions().as_dict()) & set(hparams))
    if options:
        raise ValueError(
            f"{path} sets the option `{options[0]}`, which is the user's; "
            f"remove it, or, {REMEDY}."
        )
    missing = sorted(set(needed) - set(modules))
    if missing:
        raise ValueError(
            f"{path} must have {', '.join(missing)} under `modules`; pass the "
            "folder of a speaker encoder."
        )
    for name, module in modules.items():
        if not isinstance(module, torch.nn.Module):
            raise ValueError(
                f"{path} must have a module of torch as `{name}` of "
                f"`modules`, got a {type(module).__name__}."
            )
    _check_covered(hparams, path)


def _check_covered(hparams, path):
    """Raises if a module has weights, but no file of them."""
    pretrainer = hparams["pretrainer"]
    loaded = {
        id(parameter)
        for thing in pretrainer.loadables.values()
        if isinstance(thing, torch.nn.Module)
        for parameter in thing.parameters()
    }
    for name, module in hparams["modules"].items():
        if any(id(one) not in loaded for one in module.parameters()):
            raise ValueError(
                f"{path} has weights in `{name}` of `modules` that are not "
                "among the `loadables` of its `pretrainer`; add it there."
            )


def _files(folder, pretrainer):
    """The file of each loadable, beside the YAML."""
    found = {}
    for name, thing in pretrainer.loadables.items():
        if isinstance(thing, (torch.nn.Module, CategoricalEncoder)):
            named = pretrainer.paths.get(name, f"{name}.ckpt")
            found[name] = _file_of(folder, name, named, thing)
        else:
            raise ValueError(
                f"{folder / 'hyperparams.yaml'} has a {type(thing).__name__} "
                f"as loadable `{name}`; only modules and label maps are read "
                "without trust."
            )
    return found


def _file_of(folder, name, named, thing):
    """The file of a module or label map."""
    path = pathlib.PurePosixPath(named if isinstance(named, str) else "/")
    if path.is_absolute() or ".." in path.parts or ":" in str(named):
        raise ValueError(
            f"{folder / 'hyperparams.yaml'} takes {name} from "
            f"{str(named)[:100]}, which is not in the folder; only files "
            "beside it are read without trust."
        )
    names = [f"{name}.ckpt", path.name]
    twin = f"{name}.safetensors"
    if isinstance(thing, torch.nn.Module):
        places = [twin] * has_safetensors() + names
    else:
        places = names
    for place in places:
        if NAME.match(place) and (folder / place).is_file():
            return folder / place
    if (folder / twin).is_file() and not has_safetensors():
        raise FileNotFoundError(
            f"{folder} has no {name}.ckpt; its {twin} needs a package: pip "
            "install safetensors."
        )
    raise FileNotFoundError(
        f"The pretrained folder {folder} has no {name}.ckpt; export or "
        "download it again."
    )


def _states(files, sketch):
    """The tensors of all modules, checked against the meta modules."""
    states = {}
    for name, file in files.items():
        module = sketch["pretrainer"].loadables[name]
        if isinstance(module, CategoricalEncoder):
            require_small(file)
            continue
        own = module.state_dict()
        needed = sum(one.numel() * one.element_size() for one in own.values())
        size = file.stat().st_size
        if size > 4 * needed + SLACK:
            raise ValueError(
                f"{file} has {size} bytes, but its module in hyperparams.yaml "
                f"only needs {needed}; it is of another network."
            )
        state = read_untrusted_tensors(file)
        if isinstance(module, InputNormalization):
            states[name] = read_statistics(state, file)
            continue
        state = hook_on_loading_state_dict_checkpoint(state)
        check_fit(own, state, file)
        states[name] = {key: state[key] for key in own if key in state}
        require_finite(states[name], file)
    return states


def _put(module, state, file):
    """Loads checked tensors into a module."""
    if isinstance(module, InputNormalization):
        module._load_statistics_dict(state)
        return
    try:
        module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"{file} does not fit the folder's hyperparams.yaml: "
            f"{' '.join(str(error).split())} Export the folder again."
        ) from error


def _label_names(file, encoder):
    """Reads a label map into SpeechBrain's encoder."""
    try:
        names = read_label_map(file)
        encoder.update_from_iterable(names)
    except ValueError as error:
        raise ValueError(
            f"The label map {file} is damaged ({error}); export or download it "
            "again."
        ) from error
    return names


def _check_labels(file, labels, modules):
    """Raises if the classifier has a row for something else than the labels."""
    head = modules.get("classifier")
    weight = getattr(head, "weight", None)
    if isinstance(weight, torch.Tensor) and labels:
        if len(weight) % len(labels):
            raise ValueError(
                f"The label map {file} has {len(labels)} speakers, but its "
                f"classifier has {len(weight)} classes; they do not belong "
                "together. Export the folder again."
            )


def _calibrations(folder):
    """The calibrations of the folder, by name; empty without a file."""
    path = folder / "calibration.json"
    return load_calibrations(path) if path.is_file() else {}
