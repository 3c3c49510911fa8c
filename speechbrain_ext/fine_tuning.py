"""A Brain that can start from a trained encoder and spare it at first."""

import torch
from speechbrain import Stage

from speechbrain_ext.core import ResumableBrain
from speechbrain_ext.inference.start_from import (
    mean_embeddings,
    require_cosine_head,
    set_class_means,
)


class FineTuningBrain(ResumableBrain):
    """A Brain for fine-tuning: frozen encoder, own rate, head from means.

    While the encoder is frozen, it works as in verification: it gets no
    gradient and no weight decay, its batch statistics are fixed and its
    dropout is off. A run that is interrupted meanwhile resumes to the same
    weights, and several processes need no extra option.

    Extends ``speechbrain_ext.core.ResumableBrain``; see there for the other
    arguments. The modules have an ``embedding_model``.

    Arguments
    ---------
    frozen_epochs : float
        The encoder is frozen for this number of epochs, which may have a
        fraction.
    encoder_lr_scale : float
        Factor of the encoder's learning rate.

    Raises
    ------
    ValueError
        If nothing would be trained while the encoder is frozen.

    Example
    -------
    >>> modules = {"embedding_model": torch.nn.Linear(2, 3)}
    >>> FineTuningBrain(modules, frozen_epochs=1)
    Traceback (most recent call last):
    ValueError: `frozen_epochs` must be 0 if only the encoder has parameters, \
got 1.
    """

    def __init__(
        self,
        modules=None,
        opt_class=None,
        hparams=None,
        run_opts=None,
        checkpointer=None,
        train_sampler=None,
        frozen_epochs=0,
        encoder_lr_scale=1.0,
    ):
        super().__init__(
            modules, opt_class, hparams, run_opts, checkpointer, train_sampler
        )
        self.frozen_epochs = frozen_epochs
        self.encoder_lr_scale = encoder_lr_scale
        encoder = set(self.modules["embedding_model"].parameters())
        if frozen_epochs > 0 and encoder.issuperset(self.modules.parameters()):
            raise ValueError(
                "`frozen_epochs` must be 0 if only the encoder has "
                f"parameters, got {frozen_epochs}."
            )

    def init_optimizers(self):
        """Gives the encoder parameter groups of its own, if it needs them.

        Overrides ``speechbrain.core.Brain.init_optimizers``; see there.
        """
        super().init_optimizers()
        groups = self.optimizer.param_groups
        self.lr_scales = [1.0] * len(groups)
        if self.encoder_lr_scale == 1:
            return
        encoder = set(self.modules["embedding_model"].parameters())
        for group in list(groups):
            own = [p for p in group["params"] if p in encoder]
            rest = [p for p in group["params"] if p not in encoder]
            group["params"] = rest
            self.optimizer.add_param_group({**group, "params": own})
            self.lr_scales.append(self.encoder_lr_scale)

    def set_learning_rate(self, rate):
        """Sets the learning rate; the encoder's is scaled.

        Arguments
        ---------
        rate : float
            The learning rate of head and loss.
        """
        groups = self.optimizer.param_groups
        for group, scale in zip(groups, self.lr_scales, strict=True):
            group["lr"] = scale * rate

    def epochs_done(self):
        """The epochs that were trained before this batch, with a fraction.

        Returns
        -------
        float
            0 at the first batch of the first epoch.
        """
        return self.epoch - 1 + (self.step - 1) / len(self.train_sampler)

    def encode(self, features, lengths=None):
        """Computes embeddings; without gradient while the encoder is frozen.

        Arguments
        ---------
        features : torch.Tensor
            Shape [batch, time, channel].
        lengths : torch.Tensor
            Relative lengths, shape [batch], or None.

        Returns
        -------
        torch.Tensor
            Embeddings of shape [batch, 1, embedding].
        """
        encoder = self.modules["embedding_model"]
        if not encoder.training or self.epochs_done() >= self.frozen_epochs:
            return encoder(features, lengths)
        encoder.eval()
        with torch.no_grad():
            embeddings = encoder(features, lengths)
        encoder.train()
        return embeddings

    def start_from_means(self, loader, labels):
        """Sets the classifier to the mean embeddings of the classes.

        Arguments
        ---------
        loader : torch.utils.data.DataLoader
            Whole utterances of the training speakers, those of this process,
            from ``utterance_loader``.
        labels : numpy.ndarray
            Their class numbers, shape [utterances, speeds].

        Raises
        ------
        ValueError
            If the classifier is not on cosines with one vector per class.
        """
        head = self.modules["classifier"]
        head = getattr(head, "module", head)  # without DDP
        require_cosine_head(head)
        self.modules.eval()
        means = mean_embeddings(
            lambda batch: self.compute_forward(batch, Stage.VALID),
            loader,
            labels,
            (int(labels.max()) + 1, head.weight.shape[1]),
            self.device,
        )
        set_class_means(head, means)
