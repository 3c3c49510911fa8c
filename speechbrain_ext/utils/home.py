"""``~`` in the options of a command line."""

import os
import sys


def expand_home(argv=None):
    """Expands ``~`` in ``--option=~/path``, which most shells leave as it is.

    Without this a folder of the name ``~`` would be made.

    Arguments
    ---------
    argv : list of str
        The words of the command line; None for those of this process.

    Returns
    -------
    list of str
        The words, as text. Other words are those that were given.

    Example
    -------
    >>> expand_home(["~", "--note=a~/b"])
    ['~', '--note=a~/b']
    >>> expand_home(["--out=~/x"]) == ["--out=" + os.path.expanduser("~/x")]
    True
    """
    words = sys.argv[1:] if argv is None else argv
    return [_expanded(str(word)) for word in words]


def _expanded(word):
    name, equals, value = word.partition("=")
    if not name.startswith("--") or not value.startswith("~"):
        return word
    return name + equals + os.path.expanduser(value)
