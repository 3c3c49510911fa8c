"""PLDA by SpeechBrain, scored trial by trial in bounded memory."""

import numpy as np
import torch
from scipy import linalg
from speechbrain.processing.PLDA_LDA import PLDA, StatObject_SB

from speechbrain_ext.processing.cosine import unit_length


class PLDAScorer:
    """Length-normalised embeddings under SpeechBrain's PLDA.

    The training set's mean is subtracted from embeddings, which are then
    brought to length 1 (Garcia-Romero and Espy-Wilson, "Analysis of i-vector
    length normalization in speaker recognition systems", Interspeech 2011).
    The model is ``speechbrain.processing.PLDA_LDA.PLDA``, trained by its own
    EM. Scores equal those of its ``fast_PLDA_scoring``, which scores all pairs
    of two lists and needs too much memory for VoxCeleb1-H.

    Arguments
    ---------
    embeddings : torch.Tensor
        Of the training utterances, [utterances, embedding].
    speakers : sequence of str
        Speaker of each, [utterances].
    rank : int
        Dimensions of the speaker space. A number that is larger than the
        embedding, or not smaller than the number of speakers, is reduced.
    iterations : int
        Steps of EM.

    Raises
    ------
    ValueError
        If there are fewer than 3 speakers, no speaker has two utterances, or
        there are no more utterances than dimensions.

    Example
    -------
    >>> rng = torch.Generator().manual_seed(0)
    >>> means = torch.randn(20, 8, generator=rng).repeat(5, 1)
    >>> embeddings = means + 0.3 * torch.randn(100, 8, generator=rng)
    >>> speakers = [str(i % 20) for i in range(100)]
    >>> scorer = PLDAScorer(embeddings, speakers, rank=4)
    >>> same, other = scorer.scores(embeddings, [0, 0], [20, 1])
    >>> bool(same > other)
    True
    """

    def __init__(self, embeddings, speakers, rank=100, iterations=10):
        speakers = np.asarray(speakers, dtype=object)
        number = len(set(speakers))
        size = embeddings.shape[1]
        if number < 3 or number == len(speakers) or len(speakers) <= size:
            raise ValueError(
                "PLDA needs 3 speakers or more, one of them with two "
                "utterances or more, and more utterances than the "
                f"embedding's {size} dimensions, got "
                f"{number} speakers and {len(speakers)} utterances."
            )
        self.mean = embeddings.double().mean(dim=0)
        vectors = self._prepared(embeddings).numpy()
        self.model = PLDA(
            rank_f=min(rank, size, number - 1), nb_iter=iterations
        )
        nothing = np.full(len(speakers), None)
        self.model.plda(
            StatObject_SB(
                modelset=speakers,
                segset=np.array([str(i) for i in range(len(speakers))], "O"),
                start=nothing,
                stop=nothing,
                stat0=np.ones((len(speakers), 1)),
                stat1=vectors,
            )
        )
        # The quadratic forms of the log-likelihood ratio of two vectors.
        between = self.model.F @ self.model.F.T
        inverse = linalg.inv(between + self.model.Sigma)
        both = linalg.inv(
            between + self.model.Sigma - between @ inverse @ between
        )
        self._own = torch.from_numpy(inverse - both)
        self._cross = torch.from_numpy(inverse @ between @ both)
        inner = self.model.F.T @ linalg.inv(self.model.Sigma) @ self.model.F
        eye = np.eye(len(inner))
        self._constant = (
            np.linalg.slogdet(inner + eye)[1]
            - np.linalg.slogdet(2 * inner + eye)[1] / 2
        )

    @torch.no_grad()
    def scores(self, embeddings, enrol, test, block_size=16384):
        """Log-likelihood ratios of trials under the model.

        Arguments
        ---------
        embeddings : torch.Tensor
            One row per utterance, [utterances, embedding].
        enrol : torch.Tensor | sequence
            Row numbers of the enrolment utterances, [trials].
        test : torch.Tensor | sequence
            Row numbers of the test utterances, [trials].
        block_size : int
            Trials at a time; bounds the memory, not the result.

        Returns
        -------
        torch.Tensor
            float64, on the CPU, [trials].
        """
        enrol, test = (torch.as_tensor(rows).cpu() for rows in (enrol, test))
        vectors = self._prepared(embeddings)
        vectors -= torch.from_numpy(self.model.mean)
        alone = ((vectors @ self._own) * vectors).sum(dim=1) / 2
        crossed = vectors @ self._cross
        scores = alone[enrol] + alone[test] + self._constant
        for start in range(0, len(scores), block_size):
            block = slice(start, start + block_size)
            pairs = crossed[enrol[block]] * vectors[test[block]]
            scores[block] += pairs.sum(dim=1)
        return scores

    def _prepared(self, embeddings):
        """Centered embeddings of length 1, float64 on the CPU."""
        centered = embeddings.double().cpu() - self.mean.cpu()
        return unit_length("embeddings", centered)
