"""The command line: fast help, examples that are valid, and no typos."""

import importlib
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from speechbrain_ext.cli import arguments
from speechbrain_ext.cli.arguments import EXIT_CODES, make_parser

COMMANDS = (
    *("verify", "enrol", "identify", "embed", "score"),
    *("info", "convert", "export", "push", "pull"),
)


def help_of(capsys, *words):
    """What ``--help`` prints."""
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def commands_in(text):
    """The words of each call of the command in a text."""
    text = text.replace("\\\n", " ")
    lines = re.findall(
        r"^ *(?:\$ )?speechbrain-ext ([a-z].+)$", text, re.MULTILINE
    )
    lines += re.findall(r"`speechbrain-ext ([a-z][^`\n]+)`", text)
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if len(words) > 1 and "..." not in words]


def test_help_does_not_wait_for_pytorch():
    code = (
        "import sys; from speechbrain_ext.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'speechbrain', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "exit codes:" in done.stdout


def test_help_lists_all_commands_with_examples_that_are_valid(capsys):
    said = help_of(capsys)
    for name in COMMANDS:
        assert re.search(rf"^    {name}\b", said, re.MULTILINE), name
    examples = commands_in(said)
    for name in COMMANDS:
        said = help_of(capsys, name)
        assert EXIT_CODES.splitlines()[1] in said and "--json" in said
        found = commands_in(said)
        assert found and all(words[0] == name for words in found), name
        examples += found
    for words in examples:
        make_parser().parse_args(words)


def test_each_command_has_a_function():
    for name in COMMANDS:
        words = {
            "enrol": ["ada", "a.wav", "--encoder=e", "--enrolments=p"],
            "identify": ["a.wav", "--encoder=e", "--enrolments=p"],
            "score": ["t", "--audio=a", "--encoder=e", "--out=s"],
            "embed": ["a", "--encoder=e", "--out=o"],
            "verify": ["a", "b", "--encoder=e"],
            "convert": ["c", "f", "--family=clova", "--architecture=VGGVox"],
            "info": ["f"],
            "export": ["f"],
            "push": ["f", "o/n"],
            "pull": ["o/n"],
        }[name]
        found = make_parser().parse_args([name, *words])
        if found.module == "sharing":
            continue  # it has its own test
        module = importlib.import_module(f"speechbrain_ext.cli.{found.module}")
        assert callable(getattr(module, found.function))
    words = ["enroll", "ada", "a.wav", "--encoder=e", "--enrolments=p"]
    assert make_parser().parse_args(words).function == "enrol"


def test_documents_show_commands_that_are_valid():
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = [
        words for path in documents for words in commands_in(path.read_text())
    ]
    assert len(found) > 10
    for words in found:
        if "--help" not in words:
            make_parser().parse_args(words)


def test_environment_names_the_encoder(monkeypatch, capsys):
    words = ["verify", "a.wav", "b.wav"]
    monkeypatch.delenv(arguments.ENCODER, raising=False)
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(words)
    assert ended.value.code == 2
    assert "--encoder" in capsys.readouterr().err
    monkeypatch.setenv(arguments.ENCODER, "pretrained")
    assert make_parser().parse_args(words).encoder == "pretrained"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["verified", "a", "b"],
        ["verify", "a", "--encoder=e"],
        ["verify", "a", "b", "--enc=e"],
        ["identify", "a", "--encoder=e", "--enrolments=p", "--top=many"],
        ["convert", "c", "f", "--family=other", "--architecture=x"],
        ["convert", "c", "f", "--family=clova"],
    ],
)
def test_a_command_line_that_is_not_valid_is_an_error(words, capsys):
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(words)
    assert ended.value.code == 2
    assert "usage: speechbrain-ext" in capsys.readouterr().err
