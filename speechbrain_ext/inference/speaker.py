"""Enrolment, verification and identification of speakers from files."""

import os
import pathlib

import torch
from speechbrain.inference.speaker import SpeakerRecognition

from speechbrain_ext.dataio.audio import (
    explain_reading,
    file_header,
    read_audio,
)
from speechbrain_ext.inference.embedding import encoder_rate
from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.inference.enrolments import Enrolments
from speechbrain_ext.inference.loading import pretrained_folder, source_path
from speechbrain_ext.inference.safe_loading import load_folder
from speechbrain_ext.inference.speech import require_speech
from speechbrain_ext.inference.streaming import (
    can_stream,
    piecewise_embedding,
    stream_embedding,
)
from speechbrain_ext.processing.calibration import load_calibrations
from speechbrain_ext.processing.cohort_file import load_cohort
from speechbrain_ext.processing.cosine import enrolment_embeddings
from speechbrain_ext.processing.decisions import Decisions

LONG = 60  # seconds; longer files are encoded in blocks


class SpeakerVerifier(SpeakerRecognition):
    """SpeechBrain's ``SpeakerRecognition`` with enrolment and calibration.

    ``encode_batch``, ``verify_batch`` and ``verify_files`` mean the same as in
    SpeechBrain. If the pretrained folder has a calibration of the cosine, its
    threshold at a prior of 0.5 replaces SpeechBrain's 0.25. Files may have any
    format that libsndfile reads, any sample rate and any number of channels.

    Create it with ``from_folder(folder)``, which runs no code of the folder.
    ``from_hparams(source=folder)`` builds any class that hyperparams.yaml
    names, as in SpeechBrain: use it only for folders that you trust.

    Arguments
    ---------
    modules : dict of torch.nn.Module
        The encoder's modules, see SpeechBrain's ``Pretrained``.
    hparams : dict
        The values of hyperparams.yaml.
    run_opts : dict | speechbrain.utils.run_opts.RunOptions
        SpeechBrain's options, such as ``{"device": "cuda"}``.
    freeze_params : bool
        Whether to freeze the modules and set them to evaluation mode.
    fingerprint : str
        Fingerprint of the encoder, to which a file of enrolments is bound.
    calibrations : dict
        Maps names of scorings to their ``Calibration``.
    back_end : speechbrain_ext.processing.back_end.BackEnd
        Scores trials; the default has no cohort, so it only has the cosine.

    Example
    -------
    >>> from speechbrain.dataio import audio_io
    >>> from speechbrain_ext.inference.speech import SpeechFeatures
    >>> from speechbrain_ext.lobes.features import KaldiFbank, SentenceMeanNorm
    >>> from speechbrain_ext.lobes.models.ResNet import ResNet
    >>> from speechbrain_ext.nnet.normalization import EmbeddingMean
    >>> verifier = SpeakerVerifier(
    ...     modules={
    ...         "compute_features": SpeechFeatures(KaldiFbank(8)),
    ...         "mean_var_norm": SentenceMeanNorm(),
    ...         "embedding_model": ResNet(8, (1, 1, 1, 1), 4, 4),
    ...         "mean_var_norm_emb": EmbeddingMean(4),
    ...     },
    ...     hparams={},
    ... )
    >>> path = getfixture("tmp_path") / "ada.wav"
    >>> audio_io.save(path, torch.rand(2, 44100), 44100)
    >>> verifier.enrol("ada", path)
    >>> verifier.verify("ada", path).same_speaker
    True
    >>> verifier.identify(path).name
    'ada'
    """

    def __init__(
        self,
        modules=None,
        hparams=None,
        run_opts=None,
        freeze_params=True,
        fingerprint=None,
        calibrations=None,
        back_end=None,
    ):
        super().__init__(modules, hparams, run_opts, freeze_params)
        self.fingerprint = fingerprint
        self.decisions = Decisions(back_end, calibrations)
        self.folder = None
        self.enrolments = Enrolments(fingerprint)

    @classmethod
    def from_hparams(cls, source, hparams_file="hyperparams.yaml", **kwargs):
        """Loads a pretrained folder with its calibration and cohort.

        Overrides ``speechbrain.inference.interfaces.Pretrained.from_hparams``;
        see there. ``hf:owner/name`` is a source too. Without a folder there is
        no fingerprint, calibration or cohort.

        Raises
        ------
        ValueError
            If the calibration or the cohort is not valid.
        OSError
            If the folder does not exist or a file cannot be read.
        """
        if isinstance(source, (str, os.PathLike)):
            source = source_path(source)
        verifier = super().from_hparams(source, hparams_file, **kwargs)
        if verifier is None or not isinstance(source, str):
            return verifier
        if os.path.isfile(os.path.join(source, "hyperparams.yaml")):
            verifier.use_folder(source)
        return verifier

    @classmethod
    def from_folder(cls, path, run_opts=None):
        """Loads a pretrained folder without trust, see ``load_folder``.

        Arguments
        ---------
        path : str | pathlib.Path
            A folder, or ``hf:owner/name``.
        run_opts : dict | speechbrain.utils.run_opts.RunOptions
            SpeechBrain's options, such as ``{"device": "cuda"}``.

        Returns
        -------
        SpeakerVerifier
            The verifier, with the folder's calibration and cohort.

        Raises
        ------
        FileNotFoundError
            If the folder or one of its files is missing.
        OSError
            If a file cannot be read.
        ValueError
            If something is refused or does not fit. The message says what.

        Example
        -------
        >>> SpeakerVerifier.from_folder("no/such/folder")
        Traceback (most recent call last):
        FileNotFoundError: The pretrained folder no/such/folder has no...
        """
        folder = pretrained_folder(path)
        loaded = load_folder(folder, needed=cls.MODULES_NEEDED)
        verifier = cls(loaded.modules, loaded.hparams, run_opts)
        verifier.use_folder(folder)
        return verifier

    def use_folder(self, folder):
        """Reads fingerprint, calibrations and cohort of a pretrained folder.

        Arguments
        ---------
        folder : str | pathlib.Path
            The folder of this encoder.

        Raises
        ------
        ValueError
            If the calibration or the cohort is not valid.
        OSError
            If a file cannot be read.
        """
        folder = pathlib.Path(folder)
        self.folder, self.fingerprint = folder, model_fingerprint(folder)
        self.enrolments = Enrolments(self.fingerprint)
        calibrations, back_end = {}, None
        if os.path.lexists(path := folder / "calibration.json"):
            calibrations = load_calibrations(path)
        if os.path.lexists(path := folder / "normalization.npz"):
            back_end = load_cohort(path, self.fingerprint)
        self.decisions = Decisions(back_end, calibrations)

    def use_enrolments(self, path):
        """Keeps enrolments in a file from now on, and reads those in it.

        Arguments
        ---------
        path : str | pathlib.Path
            The file, see ``Enrolments``; it may be missing. It must not lie
            in the pretrained folder, whose files make the fingerprint.

        Raises
        ------
        ValueError
            If the file is damaged, is not a file of enrolments, belongs to
            another encoder or lies in the pretrained folder, or the encoder
            has no fingerprint.
        OSError
            If the file cannot be read.
        """
        if self.fingerprint is None:
            raise ValueError(
                f"{path} cannot be used: the encoder has no fingerprint, "
                "because it was not loaded from a folder; pass the path of a "
                "pretrained folder to from_hparams."
            )
        inside = pathlib.Path(path).resolve().parent
        if self.folder is not None and inside == self.folder.resolve():
            raise ValueError(
                f"{path} lies in the pretrained folder and would change the "
                "encoder's fingerprint; name a file in another folder."
            )
        self.enrolments = Enrolments(self.fingerprint, path)

    def load_audio(self, path, savedir=None):
        """Reads an audio file as one channel at the encoder's sample rate.

        Overrides ``speechbrain.inference.interfaces.Pretrained.load_audio``;
        see there. A missing file raises an error; only URLs (``https://...``)
        are downloaded.

        Returns
        -------
        torch.Tensor
            Samples, [time].

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        AudioError
            If the file cannot be read, or has samples that are not finite.
        NoSpeechError
            If it is silent or has less than 0.1 s of sound.
        """
        path, rate = os.fspath(path), encoder_rate(self)
        if path.startswith(("http://", "https://")):
            signal = super().load_audio(path, savedir)
        else:
            file_header(path)
            with explain_reading():
                signal = read_audio(path, sample_rate=rate).to(self.device)
        require_speech(signal, rate, path)
        return signal

    def encode_stream(self, path):
        """The embedding of a file of any length, in bounded memory.

        Up to 60 s the file is encoded as a whole. A longer file is read twice
        in blocks of 24 s, with 12 s of context: once for the normalisation
        over the whole file, once for the network, whose pooling is
        accumulated. Memory does not depend on the length.

        - Networks of this package without squeeze-excitation: equal to the
          embedding of the whole file within 1e-5 of its largest value.
        - With squeeze-excitation: its means are those of a block with its
          context, not of the file, so the embedding differs a little.
        - Other networks, front ends and normalisations, and attentive pooling
          with global context: the mean of the blocks' embeddings, each of
          length 1. Each block is normalised by itself.

        The errors are those of ``load_audio``.

        Arguments
        ---------
        path : str | pathlib.Path
            The file.

        Returns
        -------
        torch.Tensor
            Shape [1, 1, embedding], as from ``encode_batch``.
        """
        path = os.fspath(path)
        frames, file_rate, _ = file_header(path)
        if frames <= LONG * file_rate:
            return self.encode_batch(self.load_audio(path)[None])
        place = path, frames, file_rate, encoder_rate(self)
        with explain_reading(), torch.inference_mode():
            if can_stream(self.mods):
                return stream_embedding(self.mods, *place, self.device)
            return piecewise_embedding(self.encode_batch, *place)

    def verify_batch(
        self, wavs1, wavs2, wav1_lens=None, wav2_lens=None, threshold=None
    ):
        """Compares waveforms by the cosine of their embeddings.

        Overrides
        ``speechbrain.inference.speaker.SpeakerRecognition.verify_batch``; see
        there. The default threshold is ``cosine_threshold()``.

        Returns
        -------
        scores : torch.Tensor
            Cosines, [batch, 1].
        decisions : torch.Tensor
            Whether the cosine is above the threshold, [batch, 1].
        """
        if threshold is None:
            threshold = self.cosine_threshold()
        return super().verify_batch(
            wavs1, wavs2, wav1_lens, wav2_lens, threshold
        )

    def cosine_threshold(self, p_target=None):
        """The threshold on the cosine of two files.

        Arguments
        ---------
        p_target : float
            Prior probability of the same speaker; None for 0.5 with a
            calibration, and for SpeechBrain's 0.25 on the cosine without.

        Returns
        -------
        float
            The threshold.

        Raises
        ------
        ValueError
            If the prior is not a probability, or there is no calibration for
            it.
        """
        return self.decisions.threshold("cosine", p_target)[0]

    def enrol(self, name, files, replace=False):
        """Enrols a speaker with one or more files.

        The embedding is the mean of the files' embeddings, each of length 1.

        Arguments
        ---------
        name : str
            Name of the speaker.
        files : str | pathlib.Path | list
            One or more audio files.
        replace : bool
            Whether a speaker with this name is replaced.

        Raises
        ------
        ValueError
            If the name is enrolled already or not valid, a file cannot be
            used, or no file is given. Nothing is enrolled then.
        OSError
            If a file does not exist, or the enrolments cannot be saved.
        """
        if isinstance(files, (str, os.PathLike)):
            files = [files]
        files = list(files)
        if not files:
            raise ValueError(f"{name!r} needs one file or more, got none.")
        self.enrolments.require_new(name, replace)  # before files are read
        rows = torch.cat([self._embedding(path) for path in files])
        mean = enrolment_embeddings(rows, [range(len(rows))])[0]
        self.enrolments.add({name: mean.numpy()}, replace)

    def verify(self, name, file, p_target=None, scoring=None):
        """Decides whether an enrolled speaker speaks in a file.

        Arguments
        ---------
        name : str
            The enrolled speaker.
        file : str | pathlib.Path
            The audio file.
        p_target : float
            Prior probability of the same speaker; None for 0.5 with a
            calibration.
        scoring : str
            A key of ``SCORINGS`` except ``plda`` and ``crops``. None for
            ``asnorm`` if the folder has a cohort and a calibration of it,
            else ``cosine``.

        Returns
        -------
        Verification
            Score, log-likelihood ratio and decision.

        Raises
        ------
        ValueError
            If the name is not enrolled, the file cannot be used, the scoring
            is not available, or there is no calibration for the prior.
        OSError
            If the file does not exist.
        """
        enrolled = self.enrolments.embedding(name)
        scoring = self.decisions.scoring(scoring)
        self.decisions.threshold(scoring, p_target)  # before the file is read
        test = self._embedding(file)
        return self.decisions.verify(
            name, enrolled, test[0].numpy(), p_target, scoring
        )

    def identify(self, file, top=5, p_known=None, scoring=None):
        """Finds the speaker of a file among the enrolled ones, or nobody.

        With a calibration the answer is the most probable of the enrolled
        speakers and nobody. A priori the enrolled speakers are equally
        probable, and share ``p_known``. Without a calibration it is the best
        speaker, if the cosine is above SpeechBrain's 0.25.

        Arguments
        ---------
        file : str | pathlib.Path
            The audio file.
        top : int
            Number of candidates to return.
        p_known : float
            Prior probability that the speaker is enrolled; None for 0.5 with
            a calibration.
        scoring : str
            As in ``verify``.

        Returns
        -------
        Identification
            The name, or None for nobody, and the best candidates.

        Raises
        ------
        ValueError
            If nobody is enrolled, the file cannot be used, the scoring is not
            available, or there is no calibration for the prior.
        OSError
            If the file does not exist.
        """
        enrolled = self.enrolments.read()
        scoring = self.decisions.scoring(scoring)
        self.decisions.require_candidates(enrolled, top, p_known, scoring)
        test = self._embedding(file)
        return self.decisions.identify(
            enrolled, test[0].numpy(), top, p_known, scoring
        )

    def _embedding(self, path):
        """The embedding of a file, float32 on the CPU, [1, embedding]."""
        return self.encode_stream(path)[0].float().cpu()
