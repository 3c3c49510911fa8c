"""What a subcommand returns."""

import dataclasses

YES, NO = 0, 1


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of a subcommand.

    Arguments
    ---------
    text : str
        What people read.
    values : dict
        What ``--json`` prints.
    code : int
        The exit code.

    Example
    -------
    >>> Answer("done", {}).code
    0
    """

    text: str
    values: dict
    code: int = YES
