"""Tests of score normalization, and of the cosine scores that it takes."""

import math

import numpy as np
import pytest
import torch

from speechbrain_ext.processing import cosine
from speechbrain_ext.processing.cosine import cosine_scores, speaker_means
from speechbrain_ext.processing.score_normalization import (
    SIDES,
    adaptive_s_norm,
    normalize_scores,
    trial_statistics,
)


def make_trials(utterances=40, size=16, trials=300, cohort=50, seed=0):
    """Embeddings, enrolment rows, test rows and a cohort."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(utterances, 1, generator=generator) * 5 + 0.1
    embeddings = (
        torch.randn(utterances, size, generator=generator) * scale + 0.3
    )
    rows = torch.randint(utterances, (2, trials), generator=generator)
    cohort = torch.randn(cohort, size, generator=generator) + 0.3
    return embeddings.double(), rows[0], rows[1], cohort.double()


def naive_cosine(a, b):
    a, b = np.float64(a), np.float64(b)
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def naive_as_norm(score, enrol, test, cohort, top_n):
    """AS-norm of one trial, from the formula."""
    total = 0.0
    for embedding in (enrol, test):
        top = sorted(naive_cosine(embedding, c) for c in cohort)[-top_n:]
        mean = math.fsum(top) / len(top)
        variance = math.fsum((c - mean) ** 2 for c in top) / len(top)
        total += (score - mean) / math.sqrt(variance)
    return total / 2


@pytest.mark.parametrize("top_n", [2, 7, 49, 50, 51, 1000, None])
def test_adaptive_s_norm_matches_a_loop(top_n):
    embeddings, enrol, test, cohort = make_trials(trials=10)
    scores = cosine_scores(embeddings, enrol, test)
    found = adaptive_s_norm(scores, enrol, test, embeddings, cohort, top_n)
    rows = zip(
        scores.tolist(), embeddings[enrol], embeddings[test], strict=True
    )
    expected = [naive_as_norm(*row, cohort, top_n or 50) for row in rows]
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_adaptive_s_norm_uses_both_sides_own_top():
    # Cosines with the cohort: (1, 0.6, 0) and (0, 0.8, 1); of the top two,
    # means 0.8 and 0.9, deviations 0.2 and 0.1.
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    cohort = torch.tensor([[4.0, 0.0], [3.0, 4.0], [0.0, 0.1]])
    scores = torch.tensor([1.0])
    found = adaptive_s_norm(scores, [0], [1], embeddings, cohort, top_n=2)
    torch.testing.assert_close(found, torch.tensor([1.0]))  # (1 + 1) / 2
    found = adaptive_s_norm(scores - 0.2, [1], [0], embeddings, cohort, 2)
    torch.testing.assert_close(found, torch.tensor([-0.5]))  # (-1 + 0) / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("block_size", [1, 7, 40, 10**6])
def test_scoring_ignores_block_size(dtype, block_size):
    embeddings, enrol, test, cohort = make_trials()
    embeddings = embeddings.to(dtype)
    scores = cosine_scores(embeddings, enrol, test)
    blocks = cosine_scores(embeddings, enrol, test, block_size=block_size)
    torch.testing.assert_close(blocks, scores, rtol=0, atol=1e-6)
    trials = (scores, enrol, test, embeddings, cohort)
    for top_n in (10, None):
        torch.testing.assert_close(
            adaptive_s_norm(*trials, top_n, block_size=block_size),
            adaptive_s_norm(*trials, top_n),
            rtol=1e-6,
            atol=1e-6,
        )


def test_scoring_is_deterministic():
    embeddings, enrol, test, cohort = make_trials()
    scores = cosine_scores(embeddings, enrol, test)
    assert torch.equal(cosine_scores(embeddings, enrol, test), scores)
    trials = (scores, enrol, test, embeddings, cohort, 10)
    assert torch.equal(adaptive_s_norm(*trials), adaptive_s_norm(*trials))


@pytest.mark.parametrize("top_n", [10, None])
def test_scoring_ignores_the_length_of_embeddings(top_n):
    embeddings, enrol, test, cohort = make_trials()
    scores = cosine_scores(embeddings, enrol, test)
    factors = 10.0 ** torch.arange(-20, 20).unsqueeze(1)
    torch.testing.assert_close(
        cosine_scores(embeddings * factors, enrol, test), scores
    )
    trials = (scores, enrol, test)
    torch.testing.assert_close(
        adaptive_s_norm(*trials, embeddings * factors, cohort * 7, top_n),
        adaptive_s_norm(*trials, embeddings, cohort, top_n),
    )


def test_adaptive_s_norm_is_affine_in_the_scores():
    embeddings, enrol, test, cohort = make_trials()
    scores = cosine_scores(embeddings, enrol, test)
    zero, one, found = (
        adaptive_s_norm(s, enrol, test, embeddings, cohort, 10)
        for s in (torch.zeros_like(scores), torch.ones_like(scores), scores)
    )
    torch.testing.assert_close(found, zero + scores * (one - zero))


@pytest.mark.parametrize(
    "dtype, expected",
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_scoring_keeps_the_float_type(dtype, expected):
    embeddings, enrol, test, cohort = make_trials()
    embeddings, cohort = embeddings.to(dtype), cohort.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = cosine_scores(embeddings, enrol, test)
        found = adaptive_s_norm(scores, enrol, test, embeddings, cohort, 10)
    assert (scores.dtype, found.dtype) == (expected, expected)
    exact = adaptive_s_norm(
        scores.double(), enrol, test, embeddings.double(), cohort.double(), 10
    )
    torch.testing.assert_close(
        found, exact, rtol=1e-4, atol=1e-4, check_dtype=False
    )
    names = [str(i) for i in range(40)]
    assert speaker_means(embeddings, names)[0].dtype == expected


def test_scoring_takes_rows_of_any_kind():
    embeddings, enrol, test, cohort = make_trials()
    embeddings.requires_grad_()
    scores = cosine_scores(embeddings, enrol, test)
    assert not scores.requires_grad
    for kind in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.int):
        rows = kind(enrol), kind(test)
        assert torch.equal(cosine_scores(embeddings, *rows), scores)
    assert cosine_scores(embeddings, [], []).shape == (0,)
    none = adaptive_s_norm(scores[:0], [], [], embeddings, cohort)
    assert none.shape == (0,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_scoring_on_a_gpu_matches_the_cpu():
    embeddings, enrol, test, cohort = (t for t in make_trials())
    embeddings, cohort = embeddings.float(), cohort.float()
    scores = cosine_scores(embeddings, enrol, test)
    expected = adaptive_s_norm(scores, enrol, test, embeddings, cohort, 10)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        scores = cosine_scores(embeddings.cuda(), enrol, test)
        trials = (scores, enrol, test, embeddings.cuda(), cohort, 10)
        found = adaptive_s_norm(*trials)
        assert found.is_cuda and torch.equal(found, adaptive_s_norm(*trials))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
    means, _ = speaker_means(embeddings.cuda(), ["a", "b"] * 20)
    assert means.is_cuda
    assert torch.equal(
        means.cpu(), speaker_means(embeddings, ["a", "b"] * 20)[0]
    )


def test_cosine_scores_ignore_rows_outside_the_trials():
    embeddings, _, _, cohort = make_trials()
    scores = cosine_scores(embeddings, [0, 2], [3, 4])
    expected = adaptive_s_norm(scores, [0, 2], [3, 4], embeddings, cohort)
    embeddings[1], embeddings[5] = 0.0, math.nan
    assert torch.equal(cosine_scores(embeddings, [0, 2], [3, 4]), scores)
    found = adaptive_s_norm(scores, [0, 2], [3, 4], embeddings, cohort)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_scoring_rejects_unusable_embeddings(bad):
    embeddings, enrol, test, cohort = make_trials()
    scores = cosine_scores(embeddings, enrol, test)
    broken = embeddings.clone()
    broken[[6, 31]] = bad
    match = f"`embeddings` must be finite .* got {bad} at rows 6, 31;"
    with pytest.raises(ValueError, match=match):
        cosine_scores(broken, enrol, test)
    with pytest.raises(ValueError, match=match):
        adaptive_s_norm(scores, enrol, test, broken, cohort)
    cohort[9] = bad
    match = f"`cohort` must be finite .* got {bad} at rows 9;"
    with pytest.raises(ValueError, match=match):
        adaptive_s_norm(scores, enrol, test, embeddings, cohort, top_n=5)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("row", [-1, 40, 2**40])
def test_scoring_rejects_rows_out_of_range(side, row):
    embeddings, *sides, cohort = make_trials()
    scores = cosine_scores(embeddings, *sides)
    sides[side][3] = row
    name = ("enrol", "test")[side]
    match = rf"`{name}` must be row numbers in \[0, 40\), got {row} at trials 3"
    with pytest.raises(ValueError, match=match):
        cosine_scores(embeddings, *sides)
    with pytest.raises(ValueError, match=match):
        adaptive_s_norm(scores, *sides, embeddings, cohort)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"top_n": 1}, "`top_n` of 50 cohort rows must be 2 or more, got 1"),
        ({"top_n": 0}, "must be 2 or more, got 0"),
        ({"cohort": torch.ones(1, 16)}, "`top_n` of 1 .* got 1"),
        ({"cohort": torch.eye(5)}, r"`cohort` .*\[cohort, 16\].* got \[5, 5\]"),
        ({"cohort": torch.ones(5)}, r"`cohort` must be .* shape \[5\]"),
        (
            {"cohort": torch.ones(9, 16)},
            "top 9 .* not be zero, got .* rows 0, 1",
        ),
        ({"scores": torch.ones(7)}, r"`scores` must be \[300\].* got \[7\]"),
        ({"scores": torch.arange(300) / 0}, "got nan at trials 0, .* 295 more"),
        ({"enrol": [0.0]}, r"`enrol` must be whole .*float32 of shape \[1\]"),
        ({"test": [True]}, "`test` must be whole .* got torch.bool"),
        ({"enrol": [[0]]}, r"`enrol` must be whole .* shape \[1, 1\]"),
        ({"enrol": [0, 1]}, "equally long, got 2 and 300"),
        ({"block_size": 0}, "`block_size` must be 1 or more, got 0"),
        ({"embeddings": torch.eye(40).int()}, "floating-point.* torch.int32"),
    ],
)
def test_adaptive_s_norm_rejects_bad_arguments(change, match):
    embeddings, enrol, test, cohort = make_trials()
    trials = {
        "scores": cosine_scores(embeddings, enrol, test),
        **{"enrol": enrol, "test": test, "embeddings": embeddings},
        "cohort": cohort,
    }
    with pytest.raises(ValueError, match=match):
        adaptive_s_norm(**{**trials, **change})


def test_adaptive_s_norm_names_the_utterance_without_spread():
    # Row 3's top two cohort rows are copies; row 1's are not.
    embeddings = torch.eye(4)
    cohort = torch.eye(4)[[3, 3, 1, 2]] + 0.1
    cohort[1] = cohort[0]
    scores = torch.tensor([0.5])
    with pytest.raises(ValueError, match="got 0.0 at rows 3; drop dupl"):
        adaptive_s_norm(scores, [1], [3], embeddings, cohort, top_n=2)


def scored_trials(utterances=30, size=8, trials=120, cohort=25):
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(utterances, size, generator=generator).double()
    enrol, test = torch.randint(utterances, (2, trials), generator=generator)
    cohort = torch.randn(cohort, size, generator=generator).double()
    scores = cosine_scores(embeddings, enrol, test)
    return scores, enrol, test, embeddings, cohort


def naive(trial, top_n, sides, selection, names=None):
    """One trial from the formula; names: speakers of rows and of cohort."""
    score, enrol, test, embeddings, cohort = trial
    unit = torch.nn.functional.normalize
    cosines = {
        side: (unit(embeddings[[row]]) @ unit(cohort).T)[0].numpy()
        for side, row in (("enrol", enrol), ("test", test))
    }
    kept = np.ones(len(cohort), dtype=bool)
    if names is not None:
        own = {names[0][enrol], names[0][test]}
        kept = np.array([name not in own for name in names[1]])
    found = []
    for side in sides:
        other = "test" if side == "enrol" else "enrol"
        by = cosines[side if selection == "own" else other][kept]
        nearest = np.argsort(-by, kind="stable")[:top_n]
        picked = cosines[side][kept][nearest]
        found.append((score - picked.mean()) / picked.std())
    return sum(found) / len(found)


def normalized(trials, sides=SIDES, **options):
    """Scores normalized by one side or by both."""
    scores, *rows = trials
    return normalize_scores(scores, trial_statistics(*rows, **options), sides)


@pytest.mark.parametrize("sides", [("enrol",), ("test",), SIDES])
@pytest.mark.parametrize("selection", ["own", "other"])
@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("top_n", [5, None])
def test_normalize_scores_matches_a_loop(
    sides, selection, leave_out, top_n, monkeypatch
):
    trials = scored_trials()
    options = {"top_n": top_n, "selection": selection}
    names = None
    if leave_out:
        names = [f"s{i % 7}" for i in range(30)], [f"s{i}" for i in range(25)]
        options["speakers"], options["cohort_speakers"] = names
    found = normalized(trials, sides, **options)
    expected = [
        naive((score, *rows, *trials[3:]), top_n, sides, selection, names)
        for score, *rows in zip(*(t.tolist() for t in trials[:3]), strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(cosine, "MOST_COSINES", 200)  # blocks of a few
    blocks = normalized(trials, sides, **options)
    torch.testing.assert_close(blocks, found, rtol=0, atol=1e-9)


def test_own_nearest_of_both_sides_is_as_norm():
    trials = scored_trials()
    torch.testing.assert_close(
        normalized(trials, top_n=6), adaptive_s_norm(*trials, top_n=6)
    )


def test_speakers_that_are_not_in_the_cohort_leave_nothing_out():
    trials = scored_trials()
    found = normalized(
        trials, speakers=["x"] * 30, cohort_speakers=["y"] * 25, top_n=6
    )
    torch.testing.assert_close(found, adaptive_s_norm(*trials, top_n=6))


@pytest.mark.parametrize(
    "change, match",
    [
        ({"sides": ("u",)}, r"`sides` must be .* got \('u',\)"),
        ({"sides": ()}, r"`sides` must be .* got \(\)"),
        ({"selection": "none"}, "`selection` must be own or other, got 'none'"),
        ({"speakers": ["a"] * 30}, "go together"),
        (
            {"speakers": ["a"] * 30, "cohort_speakers": ["a"] * 24 + ["b"]},
            "keep 2 rows .* got 1",
        ),
        ({"top_n": 1}, "must be 2 or more, got 1"),
    ],
)
def test_normalize_scores_rejects_bad_arguments(change, match):
    with pytest.raises(ValueError, match=match):
        normalized(scored_trials(), **change)
