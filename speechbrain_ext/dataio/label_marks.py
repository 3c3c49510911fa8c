"""Marks that a person gave to labels, and the manifest without wrong ones."""

from speechbrain_ext.dataio.text_files import read_table, shorten

MARKS = ("wrong", "right")


def read_marks(path, manifest):
    """Reads the marks that the page ``labels.html`` saved.

    Arguments
    ---------
    path : str
        CSV with the columns ID and mark, which is ``wrong`` or ``right``. If
        it has the column spk_id, that is the label that was marked.
    manifest : pandas.DataFrame
        Columns ID and spk_id; it must have every utterance that is marked.

    Returns
    -------
    dict
        ``wrong`` or ``right`` by ID.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is not a table of marks, an utterance is marked twice, or the
        manifest does not have an utterance under the label that was marked.

    Example
    -------
    >>> import pandas as pd
    >>> path = getfixture("tmp_path") / "label_marks.csv"
    >>> _ = path.write_text('ID,spk_id,mark\\n"a/s/1","a","wrong"\\n')
    >>> table = pd.DataFrame({"ID": ["a/s/1"], "spk_id": ["a"]})
    >>> read_marks(path, table)
    {'a/s/1': 'wrong'}
    """
    table = read_table(path, "file of marks", ["ID", "mark"])
    labels = dict(zip(manifest["ID"], manifest["spk_id"], strict=True))
    marks = {}
    for line, row in table.iterrows():
        name, mark = row["ID"], row["mark"]
        fault = None
        if mark not in MARKS:
            fault = f"the mark is {shorten(mark)}, not wrong or right"
        elif name not in labels:
            fault = "the manifest does not have this ID"
        elif row.get("spk_id", labels[name]) != labels[name]:
            fault = (
                f"the label was {shorten(row['spk_id'])}, but the manifest "
                f"has {shorten(labels[name])}"
            )
        elif name in marks:
            fault = "it is marked twice"
        if fault:
            raise ValueError(
                f"{path} is broken in line {line} (ID {shorten(name)}): "
                f"{fault}; save the marks of this manifest again."
            )
        marks[name] = mark
    return marks


def clean_labels(manifest, scores=None, drop=0.0, marks=None):
    """Leaves out the utterances whose labels are suspicious or marked wrong.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Column ID.
    scores : pandas.Series
        Score of each utterance, low where its label is suspicious; not needed
        if ``drop`` is 0.
    drop : float
        Share of the utterances to leave out, those of the lowest scores.
    marks : dict
        ``wrong`` or ``right`` by ID, see ``read_marks``. A mark counts more
        than a score: what is marked right stays.

    Returns
    -------
    pandas.DataFrame
        The other rows, in their order.

    Raises
    ------
    ValueError
        If ``drop`` is not a share in [0, 1), or no utterance would be left.

    Example
    -------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"ID": ["a", "b", "c", "d"]})
    >>> scores = pd.Series([0.1, 0.9, 0.8, 0.2])
    >>> marks = {"a": "right", "b": "wrong"}
    >>> clean_labels(table, scores, drop=0.5, marks=marks)["ID"].tolist()
    ['a', 'c']
    """
    if not 0 <= drop < 1:
        raise ValueError(f"`drop` must be a share in [0, 1), got {drop}.")
    left_out = set()
    if drop:
        rank = scores.rank(method="first", pct=True).to_numpy()
        left_out = set(manifest["ID"][rank <= drop])
    for name, mark in (marks or {}).items():
        (left_out.add if mark == "wrong" else left_out.discard)(name)
    kept = manifest[~manifest["ID"].isin(left_out)]
    if kept.empty:
        raise ValueError(
            "No utterance would be left; lower `drop`, or look at the marks."
        )
    return kept
