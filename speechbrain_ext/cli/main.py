"""The entry point of the command ``speechbrain-ext``."""

import dataclasses
import importlib
import json
import logging
import os
import sys
import traceback
import warnings

from speechbrain_ext.cli.arguments import ERROR, INTERRUPTED, make_parser
from speechbrain_ext.utils.home import expand_home


def main(argv=None):
    """Runs the command.

    Results go to the standard output; progress, warnings and errors go to the
    standard error.

    Arguments
    ---------
    argv : list of str
        The command line without the program's name; None for that of this
        process.

    Returns
    -------
    int
        The exit code: 0 done, or yes; 1 no; 2 an error; 130 interrupted.

    Raises
    ------
    SystemExit
        With code 0 after ``--help``, with code 2 if the command line is not
        valid.

    Example
    -------
    >>> main(["identify", "a.wav", "--encoder=no", "--enrolments=no.npz"])
    2
    """
    words = [_with_dashes(word) for word in expand_home(argv)]
    arguments = make_parser().parse_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.simplefilter("ignore")  # those of other packages
    try:
        # here, so that --help does not have to wait for PyTorch
        module = importlib.import_module(
            f"speechbrain_ext.cli.{arguments.module}"
        )
        answer = getattr(module, arguments.function)(arguments)
        values, text, code = answer.values, answer.text, answer.code
    except (ValueError, OSError, ImportError) as error:
        code, values = ERROR, {"error": " ".join(str(error).split())}
        text = None
        sys.stderr.write(f"error: {values['error']}\n")
    except KeyboardInterrupt:
        sys.stderr.write("error: Interrupted.\n")
        return INTERRUPTED
    except Exception as error:  # Python's own exit code would mean "no"
        traceback.print_exc()
        code, values, text = ERROR, {"error": repr(error)}, None
    if arguments.json:
        values = {"command": arguments.function, **values, "exit_code": code}
        text = json.dumps(values, default=_plain)  # ASCII
    if text is not None:
        _write(text)
    return code


def _with_dashes(word):
    """An option with dashes in its name: --p_target is --p-target too."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _write(text):
    """Writes to the standard output, which may be closed already."""
    try:
        try:
            sys.stdout.write(f"{text}\n")
        except UnicodeEncodeError:  # such as a file name under LANG=C
            encoding = sys.stdout.encoding
            text = text.encode(encoding, "backslashreplace").decode(encoding)
            sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # for example of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain(value):
    """A value that JSON does not know."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return str(value)
