"""Stands in for SpeechBrain's script of this name, on beeps in noise.

It reads the command line and the YAML as SpeechBrain's scripts do, and asks
the loss from ``self.hparams.compute_cost``, in training and in validation.
"""

import sys

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.batch import PaddedBatch


class SpeakerBrain(sb.Brain):
    """An encoder and a classifier of speakers."""

    def compute_forward(self, batch, stage):
        signals, lengths = batch.to(self.device).sig
        features = self.modules.compute_features(signals)
        features = self.modules.mean_var_norm(features, lengths)
        embeddings = self.modules.embedding_model(features)
        return self.modules.classifier(embeddings), lengths

    def compute_objectives(self, predictions, batch, stage):
        outputs, lengths = predictions
        targets = batch.spk_id_encoded.data
        if stage == sb.Stage.TRAIN:
            self.hparams.lr_annealing.on_batch_end(self.optimizer)
        else:
            self.errors.append(batch.id, outputs, targets, lengths)
        return self.hparams.compute_cost(outputs, targets, lengths)

    def on_stage_start(self, stage, epoch=None):
        if stage != sb.Stage.TRAIN:
            self.errors = self.hparams.error_stats()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        error = self.errors.summarize("average")
        self.hparams.train_logger.log_stats(
            {"epoch": epoch},
            {"loss": self.train_loss},
            {"loss": stage_loss, "ErrorRate": error},
        )
        self.checkpointer.save_and_keep_only({"ErrorRate": error})


def beeps(speaker, seconds=0.5, rate=16000):
    """A tone of the speaker's pitch, in noise."""
    time = torch.arange(int(seconds * rate)) / rate
    tone = torch.sin(2 * torch.pi * (300 + 400 * speaker) * time)
    return tone + 0.1 * torch.randn(len(time))


def utterances(count, speakers):
    """As many utterances, of each speaker in turn."""
    return [
        {
            "id": f"utterance{number}",
            "sig": beeps(number % speakers),
            "spk_id_encoded": torch.tensor([number % speakers]),
        }
        for number in range(count)
    ]


def main(argv):
    hparams_file, run_opts, overrides = sb.parse_arguments(argv)
    with open(hparams_file, encoding="utf-8") as stream:
        hparams = load_hyperpyyaml(stream, overrides)
    sb.create_experiment_directory(
        hparams["output_folder"], hparams_file, overrides
    )
    brain = SpeakerBrain(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        run_opts,
        hparams["checkpointer"],
    )
    options = {"batch_size": hparams["batch_size"], "collate_fn": PaddedBatch}
    data = utterances(2 * hparams["batch_size"], hparams["out_n_neurons"])
    brain.fit(hparams["epoch_counter"], data, data, False, options, options)


if __name__ == "__main__":
    main(sys.argv[1:])
