"""Loading of recipes: checked key by key, before anything is built."""

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
    read_yaml,
)

logger = get_logger(__name__)

# What a run that is resumed cannot change
FIXED = (
    *("seed", "speeds", "loss tag", "opt_class tag", "embedding_model tag"),
    *("embedding_model.block_sizes", "embedding_model.channels"),
    *("embedding_model.input_size", "embedding_model.lin_neurons"),
    *("embedding_model.width", "classifier tag"),
)


def read_recipe(path):
    """Reads a recipe; builds nothing.

    Arguments
    ---------
    path : str
        The recipe's YAML.

    Returns
    -------
    ruamel.yaml.comments.CommentedMap
        The keys with their tags, nothing resolved.

    Raises
    ------
    ValueError
        If it is not a readable YAML of keys, or extends another recipe, as
        recipes once could.

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
            "recipe of hparams/ and change its keys there, or pass them on "
            "the command line as --key=value."
        )
    return recipe


def load_recipe(path, overrides="", keys=(), run_opts=None):
    """Loads a recipe with SpeechBrain's command-line overrides.

    All values are checked before anything is built, so that nothing is
    written where one is wrong.

    Arguments
    ---------
    path : str
        The recipe's YAML.
    overrides : str
        Overrides as YAML, as ``parse_command_line`` gives them.
    keys : iterable of str
        The keys that the calling script reads. A key that is missing, and a
        key that neither the script nor another key uses, is an error.
    run_opts : speechbrain.utils.run_opts.RunOptions
        SpeechBrain's own options. Those that were given on the command line
        and are keys of the recipe too (``precision``) change the recipe, so
        that it says what is done.

    Returns
    -------
    hparams : dict
        The objects.
    text : str
        The recipe with references and overrides resolved, self-contained.

    Raises
    ------
    ValueError
        If a key is unknown, missing or unused, a value does not fit, or an
        object cannot be built.

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
            raise ValueError(f"{path} lacks the key '{key}', which is read.")
    for key in recipe:
        if key in RULES and not tag_of(recipe[key]):
            recipe[key] = check_value(
                key, recipe[key], remedy=f"change it in {path}"
            )
    used = _referenced(recipe) | set(keys)
    overridden = apply_overrides(recipe, overrides, path)
    if run_opts is not None:
        for key in run_opts.overridden_args & recipe.keys():
            recipe[key] = run_opts[key]
    written = _dumped(recipe)
    check_references(written, path)
    for key in recipe:
        if key not in used and not key.startswith("__"):
            _refuse_unused(key, used, path)
    used = _referenced(recipe) | set(keys)
    for key in overridden:
        if key not in used:
            raise ValueError(
                f"--{key} changes nothing: with the other options nothing "
                "uses it; leave it out."
            )
    return _build(written, path)


def _dumped(recipe):
    stream = io.StringIO()
    ruamel.yaml.YAML().dump(recipe, stream)
    return stream.getvalue()


def _referenced(recipe):
    """The keys that other keys refer to."""
    return set(re.findall(r"<([A-Za-z_]\w*)", _dumped(recipe)))


def _refuse_unused(key, used, path):
    """Says of a key that nothing uses what to do."""
    if difflib.get_close_matches(key, used, n=1):
        check_known(key, used, path)
    raise ValueError(
        f"{path} has the key '{key}', which nothing uses; refer to it with "
        f"!ref <{key}>, or take it out."
    )


def _build(written, path):
    """The objects of a recipe, and its text with references resolved."""
    try:
        text = resolve_references(written).getvalue()
        for key, value in parse_yaml(text, path).items():
            if key in RULES:
                check_value(key, value, remedy=f"change it in {path}")
        return load_hyperpyyaml(written), text
    # what a YAML builds may raise anything
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path}: {_said(error)}") from error


def _said(error):
    """An error of HyperPyYAML, or of what it built, on one line."""
    if isinstance(error, OSError):
        said = str(error)
    elif isinstance(error, MarkedYAMLError):
        said = error.problem
    else:
        # hyperpyyaml adds the place in front of what the constructor said
        said = "; ".join(str(argument).strip() for argument in error.args)
    said = " ".join(said.split())
    named = isinstance(error, (ValueError, TypeError, ImportError, OSError))
    return said if said and named else f"{type(error).__name__}: {said}"


@checkpoints.register_checkpoint_hooks
class RecipeText:
    """The recipe that a checkpoint was trained with, and what has changed.

    Arguments
    ---------
    text : str
        The recipe of this run, resolved.

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
        """The keys whose value is not that of a checkpoint.

        Arguments
        ---------
        path : str
            The checkpoint's file.

        Returns
        -------
        list of str
            ``key: old -> new``, keys within a block with dots.
        """
        with open(path, encoding="utf-8") as file:
            old = dict(_leaves(ruamel.yaml.YAML().load(file)))
        new = dict(_leaves(ruamel.yaml.YAML().load(io.StringIO(self.text))))
        return [
            f"{key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}"
            for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key)
        ]

    def require_resumable(self, path):
        """Raises where a checkpoint was trained with what cannot change.

        Splits and crops are drawn from the seed, and the weights are those
        of one network, one optimiser and one set of classes.

        Arguments
        ---------
        path : str
            The checkpoint's file.

        Raises
        ------
        ValueError
            If the seed, the classes, the network, the loss or the optimiser
            is another one.
        """
        for change in self.changes(path):
            key, _, values = change.partition(": ")
            if key in FIXED:
                old, _, new = values.partition(" -> ")
                key = key.removesuffix(" tag")
                raise ValueError(
                    f"{pathlib.Path(path).parent} was trained with `{key}` "
                    f"{old}, but this run has {new}; go back to {old} to "
                    "resume it, or name another --output_folder."
                )

    @checkpoints.mark_as_saver
    def _save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.text)

    @checkpoints.mark_as_loader
    def _recover(self, path, end_of_epoch):
        for change in self.changes(path):
            logger.warning(f"The recipe has changed since, {change}")


def _leaves(node, name=""):
    """The values of a YAML by their dotted keys, tags included."""
    tag = getattr(getattr(node, "tag", None), "value", None)
    if tag:
        yield f"{name} tag", tag
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, list):
        yield name, str(list(node))
    else:
        yield name, str(getattr(node, "value", node))


def require_resumable(folder, text):
    """Raises where a folder's checkpoints do not go with a recipe.

    Arguments
    ---------
    folder : str
        The folder of the checkpoints, which need not be there.
    text : str
        The recipe of this run, resolved.

    Raises
    ------
    ValueError
        If one was trained with another seed, network, loss or optimiser, or
        with other classes.

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
        # a damaged one is dealt with when it is loaded
        with contextlib.suppress(OSError, UnicodeDecodeError, YAMLError):
            RecipeText(text).require_resumable(path)


def write_recipe(folder, text, patience=10.0):
    """Locks an output folder and writes the recipe into it.

    The main process holds the lock until it ends, however it ends; the others
    look whether the recipe is there.

    Arguments
    ---------
    folder : str
        The output folder.
    text : str
        The recipe, resolved.
    patience : float
        Seconds to wait for another run's end.

    Raises
    ------
    OSError
        If another run holds the folder, it cannot be written into, or it has
        a hyperparams.yaml that this project did not write.
    ValueError
        If it holds a link that leads out of it, or a process does not find it.

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
            f"The output folder {folder} is not the main process's; give one "
            "that all machines share."
        )
