"""Score matrices: every enrolment with every test, written in blocks."""

import pathlib

import numpy as np
import pandas as pd
import torch

from speechbrain_ext.processing import cosine
from speechbrain_ext.utils.files import atomic_path, atomic_write


@torch.no_grad()
def write_score_matrix(path, enrol, test, enrol_norm=None, test_norm=None):
    """Writes the cosines of all pairs, normalized or not, as a NumPy file.

    The matrix is never in memory as a whole: ``numpy.load(path,
    mmap_mode="r")`` reads only the parts that are used. The file is written
    completely or not at all.

    Arguments
    ---------
    path : str | pathlib.Path
        File to write, ``.npy``; its folder is made.
    enrol : torch.Tensor
        Embeddings, [enrolments, embedding].
    test : torch.Tensor
        Embeddings, [tests, embedding].
    enrol_norm : tuple of torch.Tensor
        Mean and deviation of each enrolment's cohort scores, as returned by
        ``score_normalization.cohort_statistics``, [enrolments] each; None for
        plain cosines.
    test_norm : tuple of torch.Tensor
        The same for the tests, [tests] each. Both give s-norm or AS-norm,
        the enrolments alone z-norm, the tests alone t-norm.

    Raises
    ------
    ValueError
        If an embedding is zero or not finite.

    Example
    -------
    >>> path = getfixture("tmp_path") / "matrix.npy"
    >>> write_score_matrix(path, torch.eye(2), torch.tensor([[3.0, 4.0]]))
    >>> np.load(path, mmap_mode="r").tolist()
    [[0.6000000238418579], [0.800000011920929]]
    """
    path = pathlib.Path(path)
    enrol, test = (
        cosine.unit_length(name, values)
        for name, values in (("enrol", enrol), ("test", test))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        matrix = np.lib.format.open_memmap(
            part, mode="w+", dtype=np.float32, shape=(len(enrol), len(test))
        )
        rows = 1 + cosine.MOST_COSINES // max(1, len(test))
        for start in range(0, len(enrol), rows):
            block = slice(start, start + rows)
            cosines = (enrol[block] @ test.T).double()
            sides = []
            if enrol_norm is not None:
                mean, std = (v[block].unsqueeze(1) for v in enrol_norm)
                sides.append((cosines - mean) / std)
            if test_norm is not None:
                sides.append((cosines - test_norm[0]) / test_norm[1])
            if sides:
                cosines = sum(sides) / len(sides)
            matrix[block] = cosines.float().cpu().numpy()
        matrix.flush()
        del matrix


def write_trial_matrix(folder, name, trials, numbers, embeddings):
    """Writes the cosines of every enrolment of a list with every test.

    Arguments
    ---------
    folder : str | pathlib.Path
        Folder of ``matrix_<name>_cosine.npy``. The names of its rows and
        columns are in ``matrix_<name>_enrol.txt`` and ``_test.txt``.
    name : str
        The list's name.
    trials : pandas.DataFrame
        Columns enrol and test, with names of utterances.
    numbers : tuple of torch.Tensor
        Row numbers of the two sides, [trials] each.
    embeddings : torch.Tensor
        Shape [utterances, embedding].

    Raises
    ------
    ValueError
        If an embedding is zero or not finite.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> trials = pd.DataFrame({"enrol": ["a", "a"], "test": ["b", "c"]})
    >>> numbers = torch.tensor([0, 0]), torch.tensor([1, 2])
    >>> write_trial_matrix(folder, "toy", trials, numbers, torch.eye(3))
    >>> (folder / "matrix_toy_test.txt").read_text()
    'b\\nc\\n'
    """
    folder, sides = pathlib.Path(folder), {}
    for side, rows in zip(("enrol", "test"), numbers, strict=True):
        names = pd.Series(rows.numpy(), index=trials[side])
        names = names[~names.index.duplicated()]
        sides[side] = embeddings[names.tolist()]
        with atomic_write(folder / f"matrix_{name}_{side}.txt") as file:
            file.writelines(f"{known}\n" for known in names.index)
    write_score_matrix(folder / f"matrix_{name}_cosine.npy", **sides)
