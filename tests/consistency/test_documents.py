"""The documents must agree with the project: links, commands, names, code."""

import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import pathlib
import re
import runpy
import shlex
import sys

import pytest
import ruamel.yaml
from conftest import RECIPE, ROOT
from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.utils.command_line import parse_command_line
from speechbrain_ext.utils.overrides import apply_overrides
from speechbrain_ext.utils.recipe import read_recipe

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    RECIPE / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FOLDERS = "benchmarks|docs|examples|hparams|recipes|speechbrain_ext|tests"
EXECUTED = "# runs as it is\n"
FOREIGN = {  # messages of pip and of CUDA
    "No matching distribution found for torchaudio",
    "device-side assert",
}
# What a message computes; in troubleshooting.md dots stand for it, or a value
COMPUTED = re.compile(r"[.]{3}|\b(?:nan|inf|\d+)\b|/dev/shm|speaker/[\w/]+")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SHELL = ("bash", "sh", "console")
SCRIPTED = ("train_speaker_embeddings.py", "speaker_verification_cosine.py")


def name_of(path):
    """A document's path from the top of the project."""
    return path.relative_to(ROOT).as_posix()


def blocks(text, *languages):
    """The code blocks of some languages, without their indentation."""
    return [
        re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        for indent, language, code in FENCE.findall(text)
        if language in languages
    ]


def inline(text):
    """The pieces of code within sentences and tables."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def commands(text):
    """The words of each command, in blocks and in sentences."""
    found = []
    for block in blocks(text, *SHELL):
        for line in block.replace("\\\n", " ").splitlines():
            found.append(shlex.split(line, comments=True))
    found += [
        shlex.split(code)
        for code in inline(text)
        if re.match(r"(python|torchrun|make|[.]venv/\S+) ", code)
    ]
    return [words for words in found if words]


def links(text):
    """The targets of all links that are not of the network."""
    plain = re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))
    found = re.findall(r"\]\(([^)\s]+)\)", plain)
    return [link for link in found if not re.match(r"\w+:", link)]


def anchors(text):
    """The anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", title).strip() for title in headings]
    return {title.lower().replace(" ", "-") for title in kept}


def broken_links(path, text):
    """The links of a document that lead nowhere."""
    found = []
    for link in links(text):
        target, _, anchor = link.partition("#")
        file = (path.parent / target) if target else path
        if not file.exists():
            found.append(link)
        elif anchor and anchor not in anchors(file.read_text("utf-8")):
            found.append(link)
    return found


def script_and_options(words):
    """A command's script or module, its recipe, and names of its options."""
    if not re.search(r"(^|/)(python|torchrun)$", words[0]):
        return None
    words = words[1:]
    while words and words[0].startswith("--"):
        words = words[1:]  # torchrun's own
    if not words:
        return None
    script, rest = words[0], words[1:]
    if script == "-m":
        script, rest = f"-m {rest[0]}", rest[1:]
    recipe = None
    if script.rpartition("/")[2] in SCRIPTED and rest:
        recipe, rest = rest[0], rest[1:]
    options = [word[2:].split("=")[0] for word in rest if word.startswith("--")]
    return script, recipe, options


def find(named):
    """A file that a command names, from the top or from the recipe."""
    places = [folder / named for folder in (ROOT, RECIPE)]
    return next((place for place in places if place.is_file()), None)


@functools.cache
def options_of(script):
    """The options of a script or module, as its ``--help`` lists them."""
    module = script.removeprefix("-m ")
    if module == script:
        path = str(find(script))
    else:
        spec = importlib.util.find_spec(module)
        if spec.submodule_search_locations:  # a package
            spec = importlib.util.find_spec(f"{module}.__main__")
        path = spec.origin
    said, argv, paths = io.StringIO(), sys.argv, list(sys.path)
    try:
        sys.argv = [path, "--help"]
        sys.path.insert(0, str(pathlib.Path(path).parent))
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
            runpy.run_path(path, run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, paths
    return set(re.findall(r"--([\w-]+)", said.getvalue()))


@functools.cache
def keys_of(recipe):
    """What the command line of a recipe may change."""
    keys = set(ruamel.yaml.YAML().load(recipe.read_text("utf-8")))
    return keys | set(RunOptions().as_dict()) | {"help"}


def refused_values(recipe, options):
    """Why a recipe refuses the values of some options, if it does."""
    try:
        _, _, overrides = parse_command_line([str(recipe), *options], "x.py")
        apply_overrides(read_recipe(recipe), overrides, recipe)
    except ValueError as error:
        return [str(error)]
    return []


def faults_of_options(text):
    """Values of options in sentences that no recipe accepts."""
    found = []
    recipes = [
        find(f"hparams/{name}.yaml")
        for name in ("resnet_aam", "verification_resnet")
    ]
    for code in inline(text):
        if not re.match(r"--\w+=.*[^.]$", code):
            continue  # not an option, or one that is cut short by dots
        options = shlex.split(code)
        names = {option[2:].split("=")[0] for option in options}
        known = [path for path in recipes if names <= keys_of(path)]
        refused = [refused_values(path, options) for path in known]
        if refused and all(refused):
            found += refused[0]
    return found


def faults_of_command(words):
    """What a command names that is not there, and values that are refused."""
    parsed = script_and_options(words)
    tools = ("-m build", "-m pip", "-m pytest", "-m venv")
    if parsed is None or parsed[0] in tools:
        names = [word for word in words if re.match(rf"({FOLDERS})/\S", word)]
        names += [word for word in words if word.startswith("requirements")]
        return [name for name in names if not (ROOT / name).exists()]
    script, recipe, options = parsed
    if "<" in script:
        return []  # a placeholder for any of them
    if script.startswith("-m "):
        if resolve(script.removeprefix("-m ")) is None:
            return [script]
    elif find(script) is None:
        return [script]
    if script.rpartition("/")[2] in SCRIPTED:
        if recipe in (None, "..."):
            return []
        if find(recipe) is None:
            return [recipe]
        known = keys_of(find(recipe))
        given = words[words.index(recipe) + 1 :]
        given = [word for word in given if word not in ("--help", "...")]
        refused = refused_values(find(recipe), given)
    else:
        known, refused = options_of(script), []
    missing = [f"{script} --{name}" for name in options if name not in known]
    return missing or refused


def faults_of_names(text):
    """Files and dotted names in code that do not exist."""
    found = []
    whole = "\n".join([*inline(text), *blocks(text, "yaml", "python")])
    for name in sorted(set(re.findall(r"speechbrain_ext(?:\.\w+)+", whole))):
        if not name.endswith(".py") and resolve(name) is None:
            found.append(name)
    for code in inline(text):
        path = re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*", code)
        if path and not (ROOT / code).exists():
            found.append(code)
    return found


def texts_of(code):
    """The texts in code that are not docstrings, without what they compute."""
    found, skipped = [], set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.Expr, ast.JoinedStr)):
            skipped |= {id(part) for part in ast.iter_child_nodes(node)}
        if isinstance(node, ast.JoinedStr):
            parts = [getattr(part, "value", "") for part in node.values]
            parts = [p if isinstance(p, str) else "\0" for p in parts]
            found.append("".join(parts))
        elif isinstance(node, ast.Constant) and id(node) not in skipped:
            found.append(str(node.value))
    return "\n".join(found).replace("`", "")


def unsaid(text, said):
    """Messages in first columns whose words are in none of the texts."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    messages = [
        code
        for row in rows
        for code in inline(row.split(" | ")[0])
        if " " in code and code not in FOREIGN
    ]
    return [
        message
        for message in messages
        if any(part.strip() not in said for part in COMPUTED.split(message))
    ]


def resolve(name):
    """The module, class or function of a dotted name, or None."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found
    return None


def test_there_are_documents():
    names = [name_of(path) for path in DOCUMENTS]
    assert len(names) == len(set(names)) >= 18
    assert all(path.is_file() for path in DOCUMENTS)
    texts = [path.read_text("utf-8") for path in DOCUMENTS]
    assert sum(len(commands(text)) for text in texts) >= 50
    assert sum(len(links(text)) for text in texts) >= 50
    assert any(EXECUTED in text for text in texts)


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
class TestDocument:
    """What holds for every document."""

    def test_links_lead_somewhere(self, path):
        assert broken_links(path, path.read_text("utf-8")) == []

    def test_commands_name_real_files_and_options(self, path):
        found = [
            fault
            for words in commands(path.read_text("utf-8"))
            for fault in faults_of_command(words)
        ]
        assert found == []

    def test_values_of_options_are_accepted(self, path):
        assert faults_of_options(path.read_text("utf-8")) == []

    def test_names_in_code_exist(self, path):
        assert faults_of_names(path.read_text("utf-8")) == []

    def test_make_targets_exist(self, path):
        rules = (ROOT / "Makefile").read_text("utf-8")
        known = set(re.findall(r"^([\w-]+):", rules, re.MULTILINE))
        used = {
            word
            for words in commands(path.read_text("utf-8"))
            if words[0] == "make"
            for word in words[1:]
            if "=" not in word
        }
        assert used - known == set()

    def test_python_compiles(self, path):
        for code in blocks(path.read_text("utf-8"), "python"):
            ast.parse(code)

    def test_tables_from_records_are_marked_in_pairs(self, path):
        text = FENCE.sub("", path.read_text("utf-8"))
        text = re.sub(r"`[^`\n]+`", "", text)
        marks = re.findall(r"<!-- (table|end): (\w+) -->", text)
        assert marks[1::2] == [("end", name) for _, name in marks[::2]]
        assert [kind for kind, _ in marks[::2]] == ["table"] * (len(marks) // 2)


def test_troubleshooting_quotes_real_messages():
    said = (ROOT / "Makefile").read_text("utf-8")
    for folder in ("speechbrain_ext", "recipes"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            said += texts_of(path.read_text("utf-8"))
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    assert unsaid(text, said) == []
    broken = text.replace("is not installed", "is not there")
    assert unsaid(broken, said) == ["ffmpeg, which converts m4a, is not there"]


def examples():
    """The Python blocks that are executed, with the document's name."""
    return [
        pytest.param(code, id=f"{name_of(path)}-{number}")
        for path in DOCUMENTS
        for number, code in enumerate(blocks(path.read_text("utf-8"), "python"))
        if code.startswith(EXECUTED)
    ]


@pytest.mark.parametrize("code", examples())
def test_examples_run(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


class TestOfTheTests:
    """Each check finds its fault in a broken sample."""

    @pytest.mark.parametrize(
        "line",
        [
            "python no_such_script.py",
            "python -m speechbrain_ext.no_such_module",
            "python verify_files.py a b c --no_such_option=1",
            "python -m speechbrain_ext.utils.conversion --no_such_option",
            "python train_speaker_embeddings.py hparams/no_such.yaml",
            "python train_speaker_embeddings.py hparams/resnet_aam.yaml \\\n"
            "    --no_such_key=1",
            "torchrun --standalone train_speaker_embeddings.py "
            "hparams/resnet_aam.yaml --no_such_key=1",
            "python train_speaker_embeddings.py hparams/resnet_aam.yaml \\\n"
            "    --batch_size=many",
            "python -m pytest tests/no_such_file.py",
            "python -m pip install -r requirements-no-such.txt",
        ],
    )
    def test_commands(self, line):
        (words,) = commands(f"```bash\n{line}\n```\n")
        assert faults_of_command(words) != []

    @pytest.mark.parametrize(
        "line",
        [
            "python verify_files.py a b c --p_target=0.01",
            "python -m speechbrain_ext --version",
            "python -m pip install --no-deps -e .",
            "torchrun --nproc_per_node=2 train_speaker_embeddings.py "
            "hparams/resnet_aam.yaml --data_folder=a --device=cpu",
        ],
    )
    def test_commands_that_are_right(self, line):
        (words,) = commands(f"See `{line}`.\n")
        assert faults_of_command(words) == []

    def test_options_in_sentences(self):
        assert faults_of_options('See `--augment="{babble: 3}"`.') == []
        (fault,) = faults_of_options("See `--top_n=many` and `--speeds=1.0`.")
        assert "`top_n`" in fault

    def test_links_and_anchors(self):
        text = "# Its title\n[a](no.md) [b](#its-title) [c](#no) [d](http://x)"
        path = ROOT / "README.md"
        assert broken_links(path, text.replace("#its", "Makefile#its")) != []
        assert anchors(text) == {"its-title"}
        assert links(text) == ["no.md", "#its-title", "#no"]

    def test_names(self):
        text = (
            "`speechbrain_ext.no.such` `tests/no_such.py` `tests/conftest.py`"
        )
        assert len(faults_of_names(text)) == 2
        block = "```yaml\na: !new:speechbrain_ext.no\n```\n"
        assert faults_of_names(block) == ["speechbrain_ext.no"]
