"""Valid values of a recipe's keys: a table with one rule per key.

For a key that is not in the table, a new value must have the type of the value
in the recipe.
"""

import math
import numbers
import os
from typing import NamedTuple

import ruamel.yaml
from ruamel.yaml.error import YAMLError


def check_value(key, value, own=None, raw=None, remedy=""):
    """Checks a value and converts it to the type that its key needs.

    Equivalent forms are accepted: ``2.0`` for an integer, ``"0.5"`` for a
    number, ``yes`` for True, one value for a list with one element, False for
    an empty list.

    Arguments
    ---------
    key : str
        The key; keys inside a block are joined by dots.
    value : object
        The value from a YAML. A value with a tag is not checked.
    own : object
        The value in the recipe. If the table has no rule for the key, the new
        value must have its type.
    raw : str
        The value as written, if it was written without quotes. It keeps a
        path such as ``007`` from being read as a number.
    remedy : str
        What to do about a value that is not valid, for the error message.

    Returns
    -------
    object
        The converted value.

    Raises
    ------
    ValueError
        If the value is not valid.

    Example
    -------
    >>> check_value("speeds", 1.0), check_value("batch_size", "8")
    ([1.0], 8)
    >>> check_value("batch_size", -3, remedy="the recipe has 256")
    Traceback (most recent call last):
    ValueError: `batch_size` must be an integer from 1 to 1048576, got -3; \
the recipe has 256.
    """
    rule = RULES.get(key) or _rule_of(own)
    if rule is None or tag_of(value):
        return value
    if rule.text and raw and value is not None and value is not False:
        value = raw
    try:
        return rule.parse(value)
    except (TypeError, ValueError, OverflowError, YAMLError):
        remedy = rule.remedy or remedy
        raise ValueError(
            f"`{key}` must be {rule.words}, got {repr(value)[:80]}"
            f"{'; ' if remedy else ''}{remedy}."
        ) from None


class Rule(NamedTuple):
    """What a value must be, as text, and a function that converts it."""

    words: str
    parse: object
    remedy: str = ""
    text: bool = False  # whether to use the value as it was written


def tag_of(value):
    """The tag of a value in a YAML.

    Arguments
    ---------
    value : object
        A value that ruamel.yaml has read.

    Returns
    -------
    str
        The tag (``!new:...``), or None.

    Example
    -------
    >>> tag_of(ruamel.yaml.YAML().load("a: !ref <b>")["a"])
    '!ref'
    """
    return getattr(getattr(value, "tag", None), "value", None)


def _number(low=-math.inf, high=math.inf, above=-math.inf, below=math.inf):
    """A finite number within bounds."""

    def parse(value):
        value = _finite(value)
        if not (low <= value <= high and above < value < below):
            raise ValueError
        return value

    bounds = {"from": low, "above": above, "to": high, "below": below}
    words = [f"{k} {v}" for k, v in bounds.items() if math.isfinite(v)]
    if math.isfinite(low) and not math.isfinite(high):
        words = [f"of {low} or more"]
    return Rule(" ".join(["a number", *words]), parse)


def _integer(low=0, high=2**31 - 1):
    """An integer within bounds."""

    def parse(value):
        value = _finite(value)
        if value != int(value) or not low <= value <= high:
            raise ValueError
        return value if isinstance(value, int) else int(value)

    limits = (
        f"from {low} to {high}" if high != 2**31 - 1 else f"of {low} or more"
    )
    return Rule(f"an integer {limits}", parse)


def _finite(value):
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, str):
        value = float(value)
    if not math.isfinite(value):
        raise ValueError
    return value


def _choice(*names):
    """One of several names."""

    def parse(value):
        if value not in names:
            raise ValueError
        return value

    return Rule(" or ".join(map(repr, names)), parse)


def _each(rule, least=0):
    """A list of values with one rule; a single value is a list of one."""

    def parse(value):
        values = _listed(value)
        if len(values) < least:
            raise ValueError
        parsed = [v if tag_of(v) else rule.parse(v) for v in values]
        if _is_tuple(value):
            return value
        return values if values == parsed else parsed

    some = "of one or more values" if least else "(it may be empty)"
    return Rule(f"a list {some}, each {rule.words}", parse, rule.remedy)


def _listed(value):
    """The elements of a list, however it is written."""
    if value is None or value is False or value == "":
        return []
    if _is_tuple(value):
        return ruamel.yaml.YAML().load(f"[{value[1:-1]}]")
    if isinstance(value, str) and "," in value:
        return ruamel.yaml.YAML().load(f"[{value}]")
    return value if isinstance(value, (list, tuple)) else [value]


def _is_tuple(value):
    """Whether HyperPyYAML reads a text as a tuple."""
    return isinstance(value, str) and value[:1] + value[-1:] == "()"


def _block(**rules):
    """A block of keys and values, with rules for some of the keys."""

    def parse(value):
        if not isinstance(value, dict):
            raise TypeError
        for key in rules.keys() & value.keys():
            if not tag_of(value[key]):
                value[key] = rules[key].parse(value[key])
        return value

    words = [f"{key} is {rule.words}" for key, rule in rules.items()]
    where = f", where {' and '.join(words)}" if words else ""
    return Rule(f"a block {{key: value, ...}}{where}", parse)


def _optional(rule):
    """A value or None, which may be written null, false or []."""

    def parse(value):
        empty = value is None or value is False or value == []
        return None if empty else rule.parse(value)

    return rule._replace(words=f"{rule.words}, or null", parse=parse)


def _boolean(value):
    words = ("false", "no", "off", "0", "true", "yes", "on", "1")
    return words.index(str(value).lower()) > 3


def _text(value):
    if isinstance(value, (dict, list, bool)) or value is None:
        raise TypeError
    value = value if isinstance(value, str) else str(value)
    if not value.strip() or "\0" in value:
        raise ValueError
    return value


def _path(value):
    """A path; no shell expands the ~ in --key=~/folder."""
    return os.path.expanduser(_text(value))


def _paths(value):
    """One path or several."""
    if isinstance(value, list) and value:
        return [_text(path) for path in value]
    return _text(value)


def _object(value):
    """A block that changes or replaces an object, or None to remove it."""
    if value is not None and not isinstance(value, dict):
        raise TypeError
    return value


ANYTHING = Rule("of any kind", lambda value: value)
BOOLEAN = Rule("True or False", _boolean)
NUMBER = _number()
POSITIVE = _number(above=0)
NAME = Rule("a name", _text, text=True)
PATH = Rule("a path", _path, text=True)
PATHS = Rule("a path, or a list of paths", _paths, text=True)
OBJECT = Rule(
    "a block {key: value} that changes it, one with a tag (!new:...) that "
    "replaces it, or null",
    _object,
    remedy="the recipes in hparams/ show the tags",
)
FRACTION = _number(above=0, below=1)._replace(
    words="a fraction in (0, 1)", remedy="pass fractions, not percent"
)
SHARE = _number(0, 1)._replace(
    words="a share from 0 to 1", remedy="pass shares, not percent"
)
SIZES = _each(_integer(1), least=1)
BITS = _choice("fp32", "fp16", "bf16")


def _rule_of(own):
    """The rule for the type of a value; None if any value is valid."""
    if tag_of(own):
        return OBJECT if isinstance(own, dict) else None
    for kind, rule in (
        (bool, BOOLEAN),
        (numbers.Real, NUMBER),
        (str, Rule("text", str, text=True)),
        (list, _each(ANYTHING)),
        (dict, _block()),
    ):
        if isinstance(own, kind):
            return rule
    return None


def _width(value):
    """Channels: one number or factor for all stages, or a list."""
    return (SIZES if isinstance(value, list) else POSITIVE).parse(value)


def _draws(value):
    """Number of bootstrap draws: 0, or at least 2."""
    value = _integer(0).parse(value)
    if value == 1:
        raise ValueError
    return value


LABEL_NOISE = _optional(_block(rate=_number(0, 1)))._replace(
    remedy="e.g. {kind: symmetric, rate: 0.3}"
)

# Rules by key, for the recipes and for SpeechBrain's run options
RULES = {
    # both scripts
    "seed": _integer(0, 2**32 - 1),
    "output_folder": PATH,
    "save_folder": PATH,
    "data_folder": PATHS,
    "trial_lists": _optional(PATHS),
    "file_list": _optional(PATHS),
    "layout": _optional(NAME),
    "max_unreadable": SHARE,
    "skip_prep": BOOLEAN,
    # training
    "train_log": PATH,
    "shards": _optional(PATH),
    "start_from": _optional(PATH),
    "head_from": _optional(_choice("means", "random")),
    "frozen_epochs": _number(0),
    "encoder_lr_scale": POSITIVE,
    "weights_license": _optional(NAME),
    "verification_recipe": PATH,
    "dev_speakers": _integer(0),
    "dev_trials": _integer(0),
    "label_noise": LABEL_NOISE,
    "dev_label_noise": LABEL_NOISE,
    "label_filter": _optional(_block())._replace(
        remedy="e.g. {kind: ORGate, top_k: 10}"
    ),
    "sample_rate": _integer(1000, 384000),
    "n_mels": _integer(1, 4096),
    "dither": _number(0),
    "noise_floor": _number(0),
    "block_sizes": SIZES,
    "channels": Rule("a number above 0, or a list of integers from 1", _width),
    "embedding_size": _integer(1, 2**16),
    "number_of_epochs": _integer(1, 100000),
    "batch_size": _integer(1, 2**20),
    "sentence_len": _number(above=0, high=3600),
    "seconds_per_draw": _optional(POSITIVE),
    "min_draws": _integer(1, 2**20),
    "speeds": _each(_number(above=0, high=10), least=1),
    "noise_folder": _optional(PATH),
    "rir_folder": _optional(PATH),
    "augment_probability": SHARE,
    "precision": BITS,
    "eval_precision": BITS,
    "select": _choice("average", "lowest_eer"),
    "average_checkpoints": _integer(1),
    "shard_classifier": BOOLEAN,
    "initial_lr": POSITIVE,
    "final_lr": POSITIVE,
    "warmup_epochs": _number(0),
    "lr_scale": POSITIVE,
    "weight_decay": _number(0),
    "initial_margin": NUMBER,
    "final_margin": NUMBER,
    "margin_start_epoch": NUMBER,
    "margin_fix_epoch": NUMBER,
    "train_dataloader_opts": _block(
        num_workers=_integer(0, 1024), timeout=_number(0)
    ),
    "dev_batch_seconds": POSITIVE,
    # verification
    "pretrained_folder": PATH,
    "trust": BOOLEAN,
    "embeddings_folder": PATH,
    "enrolment": _optional(PATH),
    "cohort_manifest": _optional(PATH),
    "calibration_manifest": _optional(PATH),
    "conditions": _optional(PATH),
    "batch_seconds": POSITIVE,
    "num_workers": _integer(0, 1024),
    "scorings": _each(NAME, least=1),
    "crops": _integer(1, 1000),
    "crop_seconds": _number(0.1, 3600),
    "calibrate": _each(NAME),
    "score_forms": _each(_choice("wespeaker", "kaldi")),
    "score_matrices": BOOLEAN,
    "block_size": _integer(1),
    "plda_rank": _integer(1),
    "top_n": _integer(2),
    "bootstrap": Rule(
        "0 (no intervals) or an integer of 2 or more", _draws, "1000 is usual"
    ),
    "cohort_by": _choice("speaker", "utterance"),
    "calibration_trials": _integer(1),
    "calibration_prior": FRACTION,
    "p_targets": _each(FRACTION),
    "confidence": FRACTION,
    # SpeechBrain's run options
    "debug_batches": _integer(1),
    "nonfinite_patience": _integer(0),
    "grad_accumulation_factor": _integer(1),
    "optimizer_step_limit": _optional(_integer(1)),
    "distributed_backend": _choice("nccl", "gloo", "mpi"),
    "compile_mode": _choice(
        "default",
        "reduce-overhead",
        "max-autotune",
        "max-autotune-no-cudagraphs",
    ),
    "profile_warmup": _integer(0),
    "profile_steps": _integer(1),
}
