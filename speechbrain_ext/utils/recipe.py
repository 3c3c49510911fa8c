"""Recipes are checked key by key before any object is built."""

import contextlib
import difflib
import io
import pathlib
import re

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from speechbrain.utils import checkpoints
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.files import atomic_write, lock_output_folder
from speechbrain_ext.utils.overrides import apply_overrides, check_known
from speechbrain_ext.utils.values import RULES, check_value, tag_of
from speechbrain_ext.utils.yaml_files import (
    check_references,
    parse_yaml,
    read_text,
    read_yaml,
    yaml_leaves,
)

logger = get_logger(__name__)

# A resumed run cannot change these
FIXED = (
    "seed",
    "dev_speakers",
    "dev_trials",
    "speeds",
    "loss tag",
    "opt_class tag",
    "classifier tag",
    "embedding_model tag",
    "embedding_model.block_sizes",
    "embedding_model.channels",
    "embedding_model.input_size",
    "embedding_model.lin_neurons",
    "embedding_model.width",
)

# Nor these blocks, and what they are
LABEL_KEYS = {
    "label_noise": "labels",
    "dev_label_noise": "labels",
    "label_filter": "filter",
}

# Objects that no training can do without
NEEDED = (
    "modules",  # and each of them
    "compute_features",
    "mean_var_norm",
    "embedding_model",
    "classifier",
    "loss",
    "label_encoder",
    "sampler",
    "opt_class",
    "lr_schedule",
    "epoch_counter",
    "checkpointer",
    "train_logger",
)


def read_recipe(path):
    """Reads a recipe without building its objects.

    Arguments
    ---------
    path : str
        Path of the YAML.

    Returns
    -------
    ruamel.yaml.comments.CommentedMap
        The keys with their tags; references are not resolved.

    Raises
    ------
    ValueError
        If the file is not a readable YAML of keys and values, or uses
        ``extends``, which is no longer supported.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.yaml"
    >>> _ = path.write_text("extends: b.yaml\\nrate: 0.1\\n")
    >>> read_recipe(path)
    Traceback (most recent call last):
    ValueError: ... `extends` is no longer supported; ...
    """
    recipe = read_yaml(path)
    if "extends" in recipe:
        raise ValueError(
            f"{path}: `extends` is no longer supported; copy a standalone "
            "recipe from hparams/ and change its keys, or pass them on the "
            "command line as --key=value."
        )
    return recipe


def load_recipe(path, overrides="", keys=(), run_opts=None):
    """Loads a recipe with overrides from the command line.

    All values are checked before any object is built, so that no file is
    written if a value is not valid.

    Arguments
    ---------
    path : str
        Path of the YAML.
    overrides : str
        Overrides as YAML, from ``parse_command_line``.
    keys : iterable of str
        Keys that the calling script reads. They must be in the recipe, and
        every other key must be used by another key.
    run_opts : speechbrain.utils.run_opts.RunOptions
        SpeechBrain's own options. If one was given on the command line and is
        also a key of the recipe (``precision``), it overrides the key.

    Returns
    -------
    hparams : dict
        The objects.
    text : str
        The recipe with references and overrides resolved.

    Raises
    ------
    ValueError
        If a key is unknown, missing or unused, a value is not valid, an
        object cannot be built, or one that is needed is null.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.yaml"
    >>> _ = path.write_text("batch_size: 8\\nrate: !ref <batch_size> / 64\\n")
    >>> load_recipe(path, "batch_size: 16", ["batch_size", "rate"])
    ({'batch_size': 16, 'rate': 0.25}, 'batch_size: 16\\nrate: 0.25\\n')
    """
    recipe = read_recipe(path)
    for key in keys:
        if key not in recipe:
            raise ValueError(
                f"{path} lacks the key '{key}', which the script reads; is it "
                "a recipe of another script?"
            )
    for key in recipe:
        if key in RULES and not tag_of(recipe[key]):
            recipe[key] = check_value(
                key, recipe[key], remedy=f"change it in {path}"
            )
    used = _referenced(read_text(path)) | set(keys)
    overridden = apply_overrides(recipe, overrides, path)
    if run_opts is not None:
        for key in run_opts.overridden_args & recipe.keys():
            recipe[key] = run_opts[key]
    for key, value in recipe.items():
        if tag_of(value) == "!PLACEHOLDER":
            raise ValueError(f"{path} needs `{key}`; pass --{key}=VALUE.")
    written = _dumped(recipe)
    check_references(written, path)
    for key in recipe:
        if key not in used and not key.startswith("__"):
            _refuse_unused(key, used, path)
    used = _referenced(written) | set(keys)
    for key in overridden:
        if key not in used:
            raise ValueError(
                f"--{key} has no effect: with the other options the key is "
                "not used; leave it out."
            )
    hparams, text = _build(written, path)
    _require_needed(hparams, path)
    return hparams, text


def _require_needed(hparams, path):
    """Raises if an object is null that no training can do without."""
    needed = {key: hparams[key] for key in NEEDED if key in hparams}
    for name, module in (needed.get("modules") or {}).items():
        needed[f"modules: {name}"] = module
    for key, value in needed.items():
        if value is None:
            raise ValueError(
                f"`{key}` must not be null, since nothing works without it; "
                f"leave --{key.partition(':')[0]} out, or set it in {path}."
            )


def _dumped(recipe):
    stream = io.StringIO()
    ruamel.yaml.YAML().dump(recipe, stream)
    return stream.getvalue()


def _referenced(text):
    """The keys that the keys of a recipe refer to."""
    return set(re.findall(r"<([A-Za-z_]\w*)", text))


def _refuse_unused(key, used, path):
    """Raises for an unused key and says what to do."""
    if difflib.get_close_matches(key, used, n=1):
        check_known(key, sorted(used), path)
    raise ValueError(
        f"{path} has the key '{key}', which is not used; refer to it with "
        f"!ref <{key}>, or remove it."
    )


def _build(written, path):
    """The objects of a recipe, and its text with references resolved."""
    try:
        text = resolve_references(written).getvalue()
        for key, value in parse_yaml(text, path).items():
            if key in RULES:
                check_value(key, value, remedy=f"change it in {path}")
        return load_hyperpyyaml(written), text
    # the objects of a YAML may raise any exception
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path}: {_said(error)}") from error


def _said(error):
    """The message of an error of HyperPyYAML or of an object, on one line."""
    if isinstance(error, OSError):
        said = str(error)
    elif isinstance(error, MarkedYAMLError):
        said = error.problem
    else:
        # hyperpyyaml puts the place in front of the constructor's message
        said = "; ".join(str(argument).strip() for argument in error.args)
    said = " ".join(said.split())
    named = isinstance(error, (ValueError, TypeError, ImportError, OSError))
    return said if said and named else f"{type(error).__name__}: {said}"


@checkpoints.register_checkpoint_hooks
class RecipeText:
    """Saves the recipe in each checkpoint and reports later changes.

    Arguments
    ---------
    text : str
        The resolved recipe of this run.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> RecipeText("rate: 0.1")._save(folder / "recipe")
    >>> RecipeText("rate: 0.2").changes(folder / "recipe")
    ['rate: 0.1 -> 0.2']
    """

    def __init__(self, text):
        self.text = text

    def changes(self, path):
        """The keys whose values differ from those of a checkpoint.

        Arguments
        ---------
        path : str
            The recipe in the checkpoint.

        Returns
        -------
        list of str
            ``key: old -> new``; keys inside a block are joined by dots.
        """
        with open(path, encoding="utf-8") as file:
            old = dict(yaml_leaves(ruamel.yaml.YAML().load(file)))
        new = dict(yaml_leaves(ruamel.yaml.YAML().load(io.StringIO(self.text))))
        return [
            f"{key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}"
            for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key)
            and not (_is_block(key, old) or _is_block(key, new))
        ]

    def require_resumable(self, path):
        """Raises if this run cannot resume from a checkpoint.

        Splits and crops depend on the seed, and the weights belong to one
        network, one optimiser and one set of classes.

        Arguments
        ---------
        path : str
            The recipe in the checkpoint.

        Raises
        ------
        ValueError
            If the seed, the classes, the labels, the network, the loss or the
            optimiser has changed.
        """
        for change in self.changes(path):
            key, _, values = change.partition(": ")
            name = key.partition(".")[0]
            # older checkpoints lack the keys of what they do not have
            if name in LABEL_KEYS and values != "nothing -> None":
                raise ValueError(
                    f"{pathlib.Path(path).parent} was trained with another "
                    f"`{name}` ({change}); use the same {LABEL_KEYS[name]} to "
                    "resume it, or pass another --output_folder."
                )
            if key in FIXED:
                old, _, new = values.partition(" -> ")
                key = key.removesuffix(" tag")
                raise ValueError(
                    f"{pathlib.Path(path).parent} was trained with `{key}` "
                    f"{old}, but this run has {new}; use {old} to resume it, "
                    "or pass another --output_folder."
                )

    @checkpoints.mark_as_saver
    def _save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.text)

    @checkpoints.mark_as_loader
    def _recover(self, path, end_of_epoch):
        for change in self.changes(path):
            logger.warning(
                f"The recipe has changed since the checkpoint: {change}"
            )


def _is_block(key, leaves):
    """Whether a key is a block in one YAML; its own keys say what changed."""
    return any(leaf.startswith(f"{key}.") for leaf in leaves)


def require_resumable(folder, text):
    """Raises if the checkpoints of a folder do not fit a recipe.

    Arguments
    ---------
    folder : str
        Folder of the checkpoints; it may be missing.
    text : str
        The resolved recipe of this run.

    Raises
    ------
    ValueError
        If a checkpoint was trained with another seed, network, loss or
        optimiser, or with other classes or labels.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "CKPT+1"
    >>> folder.mkdir()
    >>> _ = (folder / "recipe.ckpt").write_text("seed: 1")
    >>> require_resumable(folder.parent, "seed: 2")
    Traceback (most recent call last):
    ValueError: ...CKPT+1 was trained with `seed` 1, but this run has 2; ...
    """
    for path in sorted(pathlib.Path(folder).glob("CKPT*/recipe.ckpt")):
        # damaged checkpoints are handled when they are loaded
        with contextlib.suppress(OSError, UnicodeDecodeError, YAMLError):
            RecipeText(text).require_resumable(path)


def claim_folders(output_folder, save_folder, text, patience=10.0):
    """Locks the folders of a training until this process ends.

    Only the main process locks them.

    Arguments
    ---------
    output_folder : str | pathlib.Path
        The output folder; it is created.
    save_folder : str | pathlib.Path
        The folder of data and checkpoints; it is created.
    text : str
        The resolved recipe of this run.
    patience : float
        Seconds to wait for another run that holds a lock.

    Raises
    ------
    OSError
        If another run uses a folder, or it is not writable.
    ValueError
        If the checkpoints do not fit the recipe, see ``require_resumable``,
        or the output folder has a link to a place outside of it.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> claim_folders(folder, folder / "save", "seed: 1")
    """
    if if_main_process():
        lock_output_folder(output_folder, patience)
        # it may be the corpus itself, which has files and links of its own
        lock_output_folder(save_folder, patience, deep=False)
    require_resumable(save_folder, text)


def write_recipe(folder, text, patience=10.0):
    """Locks an output folder and writes the recipe into it.

    The main process holds the lock until it ends. The other processes check
    that the recipe exists.

    Arguments
    ---------
    folder : str
        The output folder.
    text : str
        The resolved recipe.
    patience : float
        Seconds to wait for another run that holds the lock.

    Raises
    ------
    OSError
        If another run uses the folder, it is not writable, or it has a
        hyperparams.yaml that this project did not write.
    ValueError
        If the folder has a link to a place outside of it, or a process does
        not find the recipe.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_recipe(folder, "seed: 1")
    >>> (folder / "hyperparams.yaml").read_text()
    'seed: 1'
    """
    path = pathlib.Path(folder, "hyperparams.yaml")
    if if_main_process():
        lock_output_folder(folder, patience)
        with atomic_write(path) as file:
            file.write(text)
    if not path.exists():
        raise ValueError(
            f"The output folder {folder} lacks the hyperparams.yaml of the "
            "main process; use a folder that all machines share."
        )
