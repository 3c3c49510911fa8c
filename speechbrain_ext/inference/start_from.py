"""Starting a training from a pretrained encoder: weights and classifier."""

import inspect
import pathlib
import sys

import torch
from speechbrain.utils.checkpoints import hook_on_loading_state_dict_checkpoint
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.dataloader import ReadableBatches
from speechbrain_ext.dataio.speaker_labels import (
    label_map_path,
    read_label_map,
)
from speechbrain_ext.dataio.text_files import shorten
from speechbrain_ext.inference.downloads import HUB, download_pretrained
from speechbrain_ext.inference.folder_checks import check_files
from speechbrain_ext.inference.safe_weights import (
    has_safetensors,
    read_untrusted_tensors,
)
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier
from speechbrain_ext.utils.distributed import all_reduce_sum
from speechbrain_ext.utils.tensors import require_no_nan
from speechbrain_ext.utils.yaml_files import parse_yaml, read_yaml, yaml_leaves

logger = get_logger(__name__)


def head_folder(start_from, head_from=None):
    """The folder whose classifier and label map a training starts with.

    Arguments
    ---------
    start_from : str
        The pretrained folder that the training starts from, or
        ``hf:owner/name``, which is downloaded; or None.
    head_from : str
        ``means`` or ``random`` for a new classifier; None for the one of
        ``start_from``.

    Returns
    -------
    str | pathlib.Path
        The folder, or None for a new classifier.

    Raises
    ------
    ValueError
        If there is ``head_from`` without ``start_from``, or a downloaded file
        is refused.
    OSError
        If the model cannot be downloaded.

    Example
    -------
    >>> head_folder("pretrained/resnet34", "means") is None
    True
    """
    if head_from and not start_from:
        raise ValueError(
            f"`head_from` is {head_from}, which needs an encoder; pass "
            "--start_from=FOLDER, or set `head_from` to null."
        )
    start_from = _on_this_machine(start_from)
    return None if head_from else start_from


def load_pretrained(
    folder, modules, label_encoder, head_from=None, recipe=None
):
    """Loads the modules of a pretrained folder for fine-tuning.

    The folder may be one that training exported, a converted checkpoint, or a
    pretrained folder of SpeechBrain's with the recipe's encoder. Only tensors
    are read and no object is built from its hyperparams.yaml, so the folder
    need not be trusted.

    The rows of a classifier are matched by the speakers' names. A speaker that
    the folder does not know keeps its initial row. If either the folder or the
    recipe has no weights of a classifier, only the encoder is loaded.

    Arguments
    ---------
    folder : str
        The pretrained folder, or ``hf:owner/name``.
    modules : dict of torch.nn.Module
        The modules to load, by their names in the folder:
        ``embedding_model``, ``classifier``, ``loss``.
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder
        The label map of the modules.
    head_from : str
        None to load all modules; ``means`` or ``random`` to load only the
        encoder.
    recipe : str
        The resolved recipe as YAML. If its front end is not that of the
        folder, a warning is logged.

    Returns
    -------
    int
        Number of speakers whose rows were loaded.

    Raises
    ------
    FileNotFoundError
        If the folder has no hyperparams.yaml or no weights of the encoder.
    OSError
        If the model cannot be downloaded.
    ValueError
        If a module does not fit the one in the folder, a file has more than
        tensors, a tensor contains NaN, or the folder has something else that
        is refused without trust.
    """
    folder, known = pathlib.Path(_on_this_machine(folder)), {}
    check_files(folder)
    paths = {name: weights_path(folder, name) for name in modules}
    states = {
        name: _state(path)
        for name, path in paths.items()
        if name == "embedding_model" or (not head_from and path.is_file())
    }
    head = modules.get("classifier", torch.nn.Identity())
    here, there = bool(head.state_dict()), bool(states.get("classifier"))
    new = head_from or here != there
    if new:
        states = {k: v for k, v in states.items() if k == "embedding_model"}
    elif there or states.get("loss"):
        labels = read_label_map(label_map_path(folder))
        known = {label: number for number, label in enumerate(labels)}
    for name, state in states.items():
        if not new and known != label_encoder.lab2ind:
            _match_speakers(name, modules[name], state, known, label_encoder)
        _load(modules[name], state, paths[name], name)
    found = len(known.keys() & label_encoder.lab2ind.keys())
    said = f"its classifier knows {found} of {len(label_encoder)} classes"
    if new:
        said = "only its encoder is used"
    logger.info(f"Starting from {folder}: {said}.")
    for change in front_end_changes(folder, recipe) if recipe else ():
        logger.warning(
            "The recipe's front end is not that of the encoder that training "
            f"starts from: {change}"
        )
    return found


def weights_path(folder, name):
    """The file of a module in a pretrained folder.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder.
    name : str
        Name of the module in the folder, such as ``embedding_model``.

    Returns
    -------
    pathlib.Path
        ``<name>.safetensors`` if there is one and that package is installed,
        ``<name>.ckpt``, or the file in the folder whose name stands in
        hyperparams.yaml under ``pretrainer`` and ``paths``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "hyperparams.yaml").write_text(
    ...     "pretrainer: {paths: {embedding_model: owner/name/model.pt}}"
    ... )
    >>> _ = (folder / "model.pt").write_bytes(b"")
    >>> weights_path(folder, "embedding_model").name
    'model.pt'
    """
    path = pathlib.Path(folder, f"{name}.safetensors")
    if path.is_file() and has_safetensors():
        return path
    path = path.with_suffix(".ckpt")
    tree = path.with_name("hyperparams.yaml")
    if path.is_file() or not tree.is_file():
        return path
    pretrainer = read_yaml(tree).get("pretrainer")
    paths = pretrainer.get("paths") if isinstance(pretrainer, dict) else None
    named = paths.get(name) if isinstance(paths, dict) else None
    named = getattr(named, "value", named)  # with a tag, such as !ref
    if not isinstance(named, str):
        return path
    found = path.with_name(named.rpartition("/")[2] or path.name)
    return found if found.is_file() else path


def front_end_changes(folder, recipe):
    """Compares the front end of a pretrained folder with that of a recipe.

    An encoder needs the features that it was trained with. No object is built.
    An argument that one of the two YAMLs omits has the default of the class if
    both name the same class; otherwise it is not compared. Nor is dither,
    which is for training only.

    Arguments
    ---------
    folder : str | pathlib.Path
        The pretrained folder.
    recipe : str
        The resolved recipe as YAML.

    Returns
    -------
    list of str
        ``key: the folder's -> the recipe's``; empty if the folder has no
        hyperparams.yaml.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> text = "front_end: !new:KaldiFbank {n_mels: 40}"
    >>> _ = (folder / "hyperparams.yaml").write_text(text)
    >>> recipe = "compute_features: !new:KaldiFbank {n_mels: 80, dither: 1.0}"
    >>> front_end_changes(folder, recipe)
    ['compute_features.n_mels: 40 -> 80']
    """
    path = pathlib.Path(folder, "hyperparams.yaml")
    if not path.is_file():
        return []
    old, new = read_yaml(path), parse_yaml(recipe, "the recipe")
    sides = []
    for tree in (old, new):
        front_end = tree.get("front_end", tree.get("compute_features"))
        blocks = {
            "sample_rate": tree.get("sample_rate"),
            "compute_features": front_end,
            "mean_var_norm": tree.get("mean_var_norm"),
        }
        sides.append(dict(yaml_leaves(blocks)))
    for key in ("compute_features", "mean_var_norm"):
        tags = {side.get(f"{key} tag") for side in sides}
        for name, value in _defaults(*tags) if len(tags) == 1 else ():
            for side in sides:
                side.setdefault(f"{key}.{name}", str(value))
    old, new = sides
    return [
        f"{key}: {value} -> {new[key]}"
        for key, value in old.items()
        if key in new
        and not key.endswith("dither")
        and "None" not in (value, new[key])
        and not value.startswith("<")  # a reference
        and not _same(value, new[key])
    ]


def _defaults(tag):
    """Names and defaults of the arguments of a class, by its tag in a YAML."""
    module, _, name = (tag or "").removeprefix("!new:").rpartition(".")
    # the recipe was loaded, so a class of it is there: nothing is imported
    kind = getattr(sys.modules.get(module), name, None)
    if not isinstance(kind, type):
        return []
    arguments = inspect.signature(kind).parameters.items()
    return [(n, a.default) for n, a in arguments if a.default is not a.empty]


def _same(value, other):
    """Whether two texts of a YAML are one value, as 0 and 0.0 are."""
    try:
        return float(value) == float(other)
    except ValueError:
        return value == other


def mean_embeddings(encode, loader, labels, shape, device="cpu"):
    """The mean of each class's embeddings, as a vector of length 1.

    Every embedding is scaled to length 1 before. All processes must call this,
    each with its part of the utterances. Utterances without speech are left
    out.

    Arguments
    ---------
    encode : callable
        Takes a batch and returns embeddings, shape [batch, 1, embedding].
    loader : torch.utils.data.DataLoader
        Whole utterances, from ``utterance_loader``.
    labels : numpy.ndarray
        Class numbers of the utterances, shape [utterances, speeds]. An
        utterance counts for its speaker at every speed.
    shape : tuple of int
        Number of classes, and size of the embeddings.
    device : torch.device
        Where the sums of the processes are added.

    Returns
    -------
    torch.Tensor
        Of that shape, float32, on the CPU. The row of a class
        without speech is 0.
    """
    labels = torch.as_tensor(labels)
    # a process may have no utterance
    sums = torch.zeros(shape, dtype=torch.float64)
    for batch in ReadableBatches(loader):
        with torch.no_grad():
            embeddings = encode(batch).squeeze(1).double().cpu()
        spoken = torch.tensor([not why for why in batch.no_speech])
        embeddings = torch.nn.functional.normalize(embeddings[spoken])
        rows = torch.as_tensor(batch.row).cpu()[spoken]
        for column in labels[rows].unbind(dim=1):
            sums.index_add_(0, column, embeddings)
    sums = all_reduce_sum(sums.to(device)).cpu()
    return torch.nn.functional.normalize(sums).float()


def set_class_means(classifier, means):
    """Sets the vectors of a cosine classifier to the means of its classes.

    Arguments
    ---------
    classifier : torch.nn.Module
        A ``CosineClassifier``, split over the processes or not.
    means : torch.Tensor
        Shape [classes, embedding]. A class whose row is 0 keeps its vector.
    """
    shard = getattr(classifier, "shard", None)
    if shard is not None:
        means = shard.own(means)
    weight = classifier.weight.detach()
    known = means.any(dim=1, keepdim=True).to(weight.device)
    weight.copy_(torch.where(known, means.to(weight), weight))


def require_cosine_head(classifier):
    """Raises if a classifier cannot start from mean embeddings.

    Arguments
    ---------
    classifier : torch.nn.Module
        The classifier of a recipe.

    Raises
    ------
    ValueError
        If it is not a cosine classifier with one vector per class.

    Example
    -------
    >>> require_cosine_head(torch.nn.Identity())
    Traceback (most recent call last):
    ValueError: `head_from: means` needs a CosineClassifier with one ...
    """
    kinds = (CosineClassifier, ShardedCosineClassifier)
    shard = getattr(classifier, "shard", None)
    vectors = getattr(shard, "rows_per_class", 1)
    vectors = getattr(classifier, "sub_centers", vectors)
    if not isinstance(classifier, kinds) or vectors != 1:
        raise ValueError(
            "`head_from: means` needs a CosineClassifier with one vector per "
            f"class, got {type(classifier).__name__} with {vectors}; set "
            "`head_from` to random or null."
        )


def _on_this_machine(source):
    """The folder of ``hf:owner/name``; another source as it is."""
    if str(source).startswith(HUB):
        return download_pretrained(source.removeprefix(HUB))
    return source


def _state(path):
    """The tensors of a module's file."""
    if path.with_suffix(".safetensors").is_file() and not path.is_file():
        raise FileNotFoundError(
            f"{path.with_suffix('.safetensors')} needs a package: pip install "
            "safetensors."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"`start_from` must be a pretrained folder, but {path} does not "
            "exist; train the first stage first, or convert the checkpoint."
        )
    state = read_untrusted_tensors(path)
    require_no_nan(state, path)
    return dict(hook_on_loading_state_dict_checkpoint(state))


def _load(module, state, path, name):
    """Loads a module; counters of batches may be missing."""
    own = module.state_dict()
    for key in own.keys() - state.keys():
        if key.endswith("num_batches_tracked"):
            state[key] = own[key]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        remedy = "Start from a run of the same network and loss"
        if name != "embedding_model":
            remedy += ", or pass --head_from=means or --head_from=random"
        raise ValueError(
            f"{path} does not fit the recipe's {name}: "
            f"{shorten(error, 500)} {remedy}."
        ) from error


def _match_speakers(name, module, state, known, label_encoder):
    """Sorts the rows of a classifier by the label map of the recipe."""
    own = module.state_dict()
    for key in state.keys() & own.keys():
        if name == "classifier" or key.startswith("classifier."):
            state[key] = _by_speaker(
                state[key],
                own[key],
                known,
                label_encoder,
                shard=getattr(module, "shard", None),
            )


def _by_speaker(old, own, known, label_encoder, shard=None):
    """Rows of a new classifier, with the old rows of known speakers."""
    if old.shape[1:] != own.shape[1:]:
        return old  # loading it raises an error
    first, stop = 0, len(label_encoder)
    if shard is not None:
        first, stop = shard.first, shard.stop
    there, here = len(old) / len(known), len(own) / (stop - first)
    if there != here:
        raise ValueError(
            f"The classifier to start from has {there:g} vectors per class, "
            f"but the recipe's has {here:g}; use its number of sub-centers, "
            "or pass --head_from=means or --head_from=random."
        )
    pairs = [
        (number - first, known[label_encoder.ind2lab[number]])
        for number in range(first, stop)
        if label_encoder.ind2lab[number] in known
    ]
    # [classes, rows of a class, ...]
    matched = own.detach().cpu().clone().unflatten(0, (stop - first, -1))
    if pairs:
        here, there = torch.tensor(pairs).T
        matched[here] = old.unflatten(0, (len(known), -1))[there]
    return matched.flatten(0, 1)
