"""Loading of recipes: YAMLs that extend others, checked key by key."""

import difflib
import io
import pathlib
import re

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.utils import checkpoints
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.files import atomic_write, lock_output_folder

logger = get_logger(__name__)


def compose_recipe(path):
    """Reads a recipe with all that it extends.

    A recipe may begin with ``extends: other.yaml`` (or a list of files, the
    later ones having the last word, paths beside the recipe). Its own keys
    replace those of these files; a key that they lack is an error, since it
    would change nothing. A block without a tag changes single keys of the
    block that was there, as SpeechBrain's command line does (an empty one
    takes any, and one with a tag those that it can be built of); a block with a
    tag (``!new:...``) replaces it whole, and ``without: [key, ...]`` takes out
    what nothing uses any more.

    Arguments
    ---------
    path : str
        The recipe's YAML.

    Returns
    -------
    ruamel.yaml.comments.CommentedMap
        The keys with their tags, nothing resolved or built.

    Raises
    ------
    ValueError
        If a file is missing or no YAML, or has a key that it cannot have.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(
            f"The recipe {path} does not exist; run from the recipe's folder "
            "or give the path of a YAML of hparams/."
        )
    try:
        recipe = ruamel.yaml.YAML().load(path.read_text(encoding="utf-8"))
    except ruamel.yaml.error.YAMLError as error:
        raise ValueError(f"{path} is not a YAML: {error}") from error
    parents = recipe.pop("extends", [])
    dropped = recipe.pop("without", [])
    if not parents:
        return recipe
    if isinstance(parents, str):
        parents = [parents]
    composed = compose_recipe(path.parent / parents[0])
    fragments = [_fragment(path.parent / parent) for parent in parents[1:]]
    for source, keys in [*fragments, (path, recipe)]:
        for key in keys:
            _check_known(key, composed, source)
            composed[key] = _changed(composed[key], keys[key], source)
    for key in dropped:
        _check_known(key, composed, path)
        del composed[key]
    return composed


def _changed(old, new, source):
    """A block changed key by key, or replaced where the new one has a tag."""
    if _tag(new) or not isinstance(new, dict) or not isinstance(old, dict):
        return new
    # what a tag builds knows its own keys; an empty block takes any
    closed = bool(old) and not _tag(old)
    for key in new:
        if closed:
            _check_known(key, old, source)
        old[key] = _changed(old.get(key), new[key], source)
    return old


def _tag(block):
    return getattr(getattr(block, "tag", None), "value", None)


def _fragment(path):
    """A YAML that only changes keys of whatever it is put upon."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist, but a recipe extends it.")
    keys = ruamel.yaml.YAML().load(path.read_text(encoding="utf-8"))
    keys.pop("extends", None)
    return path, keys


def _check_known(key, known, source):
    if key not in known:
        close = difflib.get_close_matches(str(key), map(str, known), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        raise ValueError(f"{source} has an unknown key '{key}'{hint}")


def load_recipe(path, overrides="", keys=()):
    """Loads a recipe with SpeechBrain's command-line overrides.

    Arguments
    ---------
    path : str
        The recipe's YAML.
    overrides : str
        Overrides as YAML, as ``speechbrain.parse_arguments`` gives them.
    keys : iterable of str
        The keys that the calling script reads. A key that is missing, and a
        key that neither the script nor another key uses, is an error.

    Returns
    -------
    hparams : dict
        The objects.
    text : str
        The recipe with references and overrides resolved, self-contained.

    Raises
    ------
    ValueError
        If a key is unknown, missing, or an argument does not fit.
    """
    composed = compose_recipe(path)
    try:
        changes = ruamel.yaml.YAML().load(overrides) if overrides else {}
    except ruamel.yaml.error.YAMLError as error:
        raise ValueError(
            f"The command line is no YAML: {error.problem}."
        ) from error
    source = "The command line"
    for key in changes:
        _check_known(key, composed, source)
        composed[key] = _changed(composed[key], changes[key], source)
    stream = io.StringIO()
    ruamel.yaml.YAML().dump(composed, stream)
    written = stream.getvalue()
    for key in keys:
        if key not in composed:
            raise ValueError(f"{path} lacks the key '{key}', which is read.")
    referenced = set(re.findall(r"<([A-Za-z_]\w*)", written)) | set(keys)
    for key in composed:
        if key not in referenced and not key.startswith("__"):
            _check_known(key, referenced, path)
    try:
        text = resolve_references(written).getvalue()
        return load_hyperpyyaml(written), text
    except (TypeError, KeyError, ValueError, ImportError) as error:
        # hyperpyyaml adds the place in front of what the constructor said
        said = "; ".join(str(argument).strip() for argument in error.args)
        raise ValueError(f"{path}: {said}") from error


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


def claim_folder(folder, text):
    """Locks an output folder and writes the recipe into it.

    The main process holds the lock until it ends, however it ends; the others
    look whether the recipe is there.

    Arguments
    ---------
    folder : str
        The output folder.
    text : str
        The recipe, resolved.

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
    >>> claim_folder(folder, "seed: 1")
    >>> (folder / "hyperparams.yaml").read_text()
    'seed: 1'
    """
    path = pathlib.Path(folder, "hyperparams.yaml")
    if if_main_process():
        lock_output_folder(folder)
        with atomic_write(path) as file:
            file.write(text)
    if not path.exists():
        raise ValueError(
            f"The output folder {folder} is not the main process's; give one "
            "that all machines share."
        )
