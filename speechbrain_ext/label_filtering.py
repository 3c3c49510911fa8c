"""A Brain that trains through wrong labels and says what became of them."""

import numpy as np
from speechbrain import Stage

from speechbrain_ext.dataio.speaker_labels import known_classes
from speechbrain_ext.fine_tuning import FineTuningBrain
from speechbrain_ext.nnet.losses.base import ClassificationLoss
from speechbrain_ext.processing.class_scores import ClassScores
from speechbrain_ext.processing.label_filters import make_label_filter
from speechbrain_ext.processing.label_statistics import LabelStatistics


class LabelFilteringBrain(FineTuningBrain):
    """A Brain with a label filter and statistics of wrong labels.

    Without a filter and without true labels it is a ``FineTuningBrain``.

    Extends ``speechbrain_ext.fine_tuning.FineTuningBrain``; see there for the
    other arguments. The modules have a ``classifier`` and a ``loss``.

    Arguments
    ---------
    label_filter : dict
        The filter, see ``speechbrain_ext.processing.label_filters``; None for
        none.
    manifest : pandas.DataFrame
        The training data. If it has the column spk_id_clean, the statistics
        are in the figures of each epoch.
    labels : numpy.ndarray
        Class numbers of the manifest, shape [utterances, speeds].
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder
        The label map.
    speeds : list of float
        The speeds of training.

    Raises
    ------
    ValueError
        If the filter is unknown or does not fit loss, classifier or data.
    """

    def __init__(
        self,
        label_filter=None,
        manifest=None,
        labels=None,
        label_encoder=None,
        speeds=(1.0,),
        **brain_arguments,
    ):
        super().__init__(**brain_arguments)
        self.label_filter = make_label_filter(label_filter)
        self.label_statistics, self.label_figures = None, {}
        # not wrapped for several processes, as those in self.modules will be
        self.loss_and_head = self.modules["loss"], self.modules["classifier"]
        if self.label_filter is not None:
            sizes = len(manifest), len(label_encoder)
            self.label_filter.start(*sizes, *self.loss_and_head)
        has_classes = isinstance(self.modules["loss"], ClassificationLoss)
        if has_classes and manifest is not None and "spk_id_clean" in manifest:
            clean = manifest["spk_id_clean"]
            self.label_statistics = LabelStatistics(
                np.reshape(labels, (len(manifest), -1)),
                known_classes(clean, label_encoder, speeds),
                (clean != manifest["spk_id"]).to_numpy(),
            )
        for name in ("label_filter", "label_statistics"):
            module = getattr(self, name)
            if module is not None:
                module.to(self.device)
                if self.checkpointer is not None:
                    self.checkpointer.add_recoverable(name, module)

    def classification_loss(self, outputs, batch):
        """The loss of a batch of training, through the label filter.

        Arguments
        ---------
        outputs : torch.Tensor
            Outputs of the classifier, shape [batch, 1, classes].
        batch : speechbrain.dataio.batch.PaddedBatch
            Has ``spk_id_encoded`` and ``row``, on the device and on the CPU.

        Returns
        -------
        torch.Tensor
            The loss, a scalar.
        """
        loss, targets = self.modules["loss"], batch.spk_id_encoded.data
        if self.label_filter is None and self.label_statistics is None:
            return loss(outputs, targets)
        plain, head = self.loss_and_head
        sub_cosines = getattr(head, "sub_cosines", None)
        scores = ClassScores(outputs, targets, plain.shard, sub_cosines)
        rows = batch.row.to(self.device, non_blocking=True)
        weights = labels = None
        if self.label_filter is not None:
            done = self.epochs_done()
            weights, labels = self.label_filter(scores, rows, done)
        if self.label_statistics is not None:
            self.label_statistics.count(scores, rows, weights, labels)
        if labels is not None:
            targets = labels.unsqueeze(1)
        return loss(outputs, targets, weights=weights)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Ends the epoch of the filter and of the statistics.

        A subclass calls this before it saves a checkpoint. Overrides
        ``speechbrain.core.Brain.on_stage_end``; see there.
        """
        if stage != Stage.TRAIN:
            return
        trust = None
        if self.label_filter is not None:
            self.label_filter.end_epoch()
            trust = self.label_filter.trust
        if self.label_statistics is not None:
            self.label_figures = self.label_statistics.figures(trust)

    def train_figures(self, loss):
        """The figures of an epoch of training, for the logs.

        Overrides ``speechbrain_ext.core.ResumableBrain.train_figures``; see
        there.
        """
        return super().train_figures(loss) | self.label_figures
