"""Helpers for tests of hostile inputs: snapshots of folders, and errors."""

import os
import stat


def snapshot(folder):
    """Everything below a folder: kind, content and target by relative path."""
    found = {}
    for path, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            place = os.path.join(path, name)
            mode = os.lstat(place).st_mode
            if stat.S_ISLNK(mode):
                held = os.readlink(place)
            elif stat.S_ISREG(mode):
                with open(place, "rb") as stream:
                    held = stream.read()
            else:
                held = None
            found[os.path.relpath(place, folder)] = stat.S_IFMT(mode), held
    return found


def sentence_or_result(function, *arguments, **options):
    """Returns the result of a call and None, or None and its error message.

    The test fails if the call raises another kind of exception, or its
    message is too short, too long, or contains a traceback.
    """
    try:
        return function(*arguments, **options), None
    except SystemExit as end:
        if not end.code:
            return None, None
        said = str(end.code)
    except (ValueError, OSError) as error:
        said = str(error)
    assert "Traceback" not in said
    assert len(said.split()) >= 4, f"no sentence: {said!r}"
    assert len(said) < 2000
    return None, said
