"""The command line of the recipe's scripts, and their ``--help``.

SpeechBrain's parser turns ``=`` inside a value into a space and accepts
abbreviations such as ``--dev`` for ``--device``. This one does neither; what
it returns has SpeechBrain's form.
"""

import ast
import io
import pathlib
import re
import sys
import textwrap

import ruamel.yaml
from ruamel.yaml.error import YAMLError
from speechbrain.utils.run_opts import HELP_TEXTS, RunOptions

from speechbrain_ext.utils.devices import check_device
from speechbrain_ext.utils.recipe import read_recipe
from speechbrain_ext.utils.values import check_value, tag_of
from speechbrain_ext.utils.yaml_files import read_text

RUN_OPTIONS = RunOptions().as_dict()
LISTS = ("jit_module_keys", "compile_module_keys")
FLAGS = [name for name in HELP_TEXTS if RUN_OPTIONS.get(name) is False]
SWITCHES = ("trust",)  # keys of YAMLs; without a value they are True
VALUED = [
    name for name in HELP_TEXTS if name in RUN_OPTIONS and name not in FLAGS
]


def parse_command_line(argv, script):
    """Reads the command line of a script, like ``sb.parse_arguments``.

    ``--key=value`` and ``--key value`` are the same. A value may contain any
    characters. Names cannot be abbreviated.

    Arguments
    ---------
    argv : list of str
        The arguments, without the script's name.
    script : str
        Path of the script. ``--help`` shows its docstring and the recipes in
        the folder ``hparams`` beside it.

    Returns
    -------
    recipe : str
        Path of the YAML.
    run_opts : speechbrain.utils.run_opts.RunOptions
        SpeechBrain's own options.
    overrides : str
        The other options, as YAML.

    Raises
    ------
    ValueError
        If an argument is not valid.
    SystemExit
        With code 0, after ``--help``.

    Example
    -------
    >>> argv = ["x.yaml", "--data_folder=/data/a=b", "--device", "cpu"]
    >>> recipe, run_opts, overrides = parse_command_line(argv, "train.py")
    >>> recipe, run_opts.device, overrides
    ('x.yaml', 'cpu', 'data_folder: /data/a=b')
    """
    recipes, options, lists = _split(list(argv))
    if "help" in options:
        sys.stdout.write(_help(recipes[0] if recipes else None, script))
        raise SystemExit(0)
    if len(recipes) != 1:
        got = " and ".join(recipes) or "none"
        raise ValueError(
            f"The command line must name one recipe (a YAML), got {got}; "
            f"python {pathlib.Path(script).name} --help lists them."
        )
    chosen = {name: words for name, words in lists.items() if words}
    overrides = []
    for name, raw in options.items():
        if name in FLAGS or name in VALUED:
            chosen[name] = _run_option(name, raw)
        else:
            overrides.append(_line(name, raw))
    if chosen.get("ckpt_interval_steps", 0) > 0:
        # SpeechBrain accepts only one of them; the recipes set the minutes
        if chosen.setdefault("ckpt_interval_minutes", 0) > 0:
            raise ValueError(
                "--ckpt_interval_steps and --ckpt_interval_minutes must not "
                "both be above 0; leave one of them out."
            )
    run_opts = RunOptions(
        **{**chosen, "param_file": recipes[0], "overridden_args": set(chosen)}
    )
    return recipes[0], run_opts, "\n".join(overrides)


def _split(argv):
    """Positional words, options by name, and options with several words."""
    positional, options, lists = [], {}, {}
    while argv:
        word = argv.pop(0)
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"The argument {word!r} must be UTF-8; rename the file or "
                "folder."
            ) from error
        if word in ("-h", "--help"):
            options["help"] = None
            continue
        if not word.startswith("-"):
            positional.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--") or not name.strip():
            raise ValueError(
                f"The command line has an unknown option '{word}'; write "
                "--key=value, with two dashes."
            )
        if name in options or name in lists:
            raise ValueError(
                f"The command line has --{name} twice; leave one out."
            )
        following = bool(argv) and not argv[0].startswith("--")
        if name in LISTS:
            lists[name] = value.split() if equals else []
            while not equals and argv and not argv[0].startswith("-"):
                lists[name].append(argv.pop(0))
        elif equals:
            options[name] = value
        elif name in FLAGS or name in SWITCHES or not following:
            options[name] = None
        else:
            options[name] = argv.pop(0)
    return positional, options, lists


def _run_option(name, raw):
    """The value of one of SpeechBrain's options, checked."""
    if raw is None and name in FLAGS:
        return True
    if not raw:
        raise ValueError(f"--{name} needs a value; write --{name}=value.")
    if name == "device":
        check_device(raw)
        return raw
    own = "" if RUN_OPTIONS[name] is None else RUN_OPTIONS[name]
    value = ruamel.yaml.YAML().load(_line(name, raw))[name]
    value = check_value(name, value, own, raw)
    if type(own) is int and value == int(value):
        return int(value)
    return value


def _line(name, raw):
    """An option as a line of YAML."""
    key = name if re.fullmatch(r"\w+", name) else _quoted(name)
    if raw is None:
        return f"{key}: True" if name in SWITCHES else f"{key}:"
    if not raw.strip():
        raise ValueError(
            f"--{name}= has no value; write --{name}=null for none."
        )
    if raw.lstrip()[0] in "[{!\"'":  # YAML syntax
        try:
            ruamel.yaml.YAML().load(raw)
        except (YAMLError, ValueError, RecursionError) as error:
            problem = getattr(error, "problem", None) or "it is not YAML"
            raise ValueError(
                f"--{name} is not valid YAML, got {raw[:80]!r} ({problem}); "
                f"to pass it as plain text, write --{name}='\"...\"'."
            ) from error
        return f"{key}: " + raw.replace("\n", "\n  ")
    return f"{key}: {raw if _is_plain(raw) else _quoted(raw)}"


def _quoted(text):
    """A text in YAML's double quotes, on one line."""
    characters = [
        c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}"
        for c in text
    ]
    return '"' + "".join(characters) + '"'


def _is_plain(raw):
    """Whether YAML reads an unquoted text as a single value."""
    try:
        ruamel.yaml.YAML().load(raw)
        node = ruamel.yaml.YAML().compose(io.StringIO(f"key: {raw}"))
        return len(node.value) == 1 and node.value[0][1].value == raw
    except (YAMLError, ValueError):  # 2024-13-45: not a date, but a name
        return False


def _help(recipe, script):
    """The text of ``--help``: usage of a script, or the keys of a recipe."""
    script = pathlib.Path(script)
    docstring = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
    if recipe is not None:
        return _help_on_recipe(recipe, script.name)
    recipes = []
    for path in sorted((script.parent / "hparams").glob("*.yaml")):
        header = path.read_text("utf-8").partition("\n\n")[0]
        if f"{script.name} " in header:
            title = header.partition("\n#\n")[0].splitlines()
            about = [f"      {line.lstrip('# ')}" for line in title]
            recipes += [f"  hparams/{path.name}", *about]
    return "\n".join(
        [
            f"usage: python {script.name} RECIPE [--key=value ...]",
            "",
            re.sub(r"(?<=\S) {3,}", " ", docstring),
            "",
            f"python {script.name} RECIPE --help lists what can be changed.",
            "",
            "Recipes:",
            *recipes,
            "",
        ]
    )


def _help_on_recipe(recipe, script):
    """A recipe's keys by section, and SpeechBrain's options."""
    tree, text = read_recipe(recipe), read_text(recipe)
    header = text.partition("\n\n")[0].splitlines()
    lines = [f"usage: python {script} {recipe} [--key=value ...]", ""]
    lines += [line.removeprefix("#").removeprefix(" ") for line in header]
    lines += ["", "Keys of this recipe; --key=value changes one."]
    for above, key, comment in _described_keys(text):
        lines += above
        lines += _entry(key, tree[key], comment)
    lines += ["", "SpeechBrain's run options"]
    for name in [*FLAGS, *VALUED]:
        if name in tree:
            continue
        value = "" if name in FLAGS else f"={RUN_OPTIONS[name]}"
        value = value.replace("=None", "=...")
        said = textwrap.shorten(HELP_TEXTS[name], 76, placeholder=" ...")
        lines += [f"  --{name}{value}", f"      {said}"]
    return "\n".join([*lines, ""])


def _described_keys(text):
    """Headings and comments above each key, the key, and its comment."""
    above, found, apart, nested = [], [], True, False
    _, _, body = text.partition("\n\n")
    for line in (body if text.startswith("#") else text).splitlines():
        key = re.match(r"([A-Za-z]\w*):", line)
        said = re.search(r"(?:^|\s)#+ ?(.*)", line)
        if key:
            found.append([above, key[1], [said[1]] if said else []])
            above, nested = [], False
        elif line.startswith("#"):
            if apart:  # a heading
                above += ["", said[1]]
            else:
                above.append(said[1] if "" in above else f"  # {said[1]}")
        elif not line.lstrip().startswith("#"):
            nested = nested or bool(line.strip())
        elif found and not nested:
            found[-1][2].append(said[1])  # continues the comment of the key
        apart = not line.strip()
    return [(above, key, " ".join(said)) for above, key, said in found]


class _WithNulls(ruamel.yaml.RoundTripRepresenter):
    """Writes None as null, where ruamel.yaml writes nothing."""

    def represent_none(self, data):
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_WithNulls.add_representer(type(None), _WithNulls.represent_none)


def _entry(key, value, comment):
    """Lines of help for a key: its value and its comment."""
    stream = io.StringIO()
    yaml = ruamel.yaml.YAML()
    yaml.width, yaml.Representer = 10**6, _WithNulls
    yaml.dump({key: value}, stream)
    lines = [
        f"  {line}"
        for line in stream.getvalue().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    if tag_of(value) == "!PLACEHOLDER":
        lines[0] = f"  {key}: (must be given)"
    if comment:
        first = lines[0].partition(" #")[0].rstrip()
        lines[0] = f"{first + '  ':<34}# {comment}"
    return lines
