#!/usr/bin/env python3
"""Trains a speaker encoder: one Brain for every loss and every backbone.

    python train_speaker_embeddings.py hparams/resnet_csphereface2.yaml \
        --data_folder=/data/VoxCeleb

The YAML names all that is built. A run that was stopped goes on with the
same command. It ends with <output_folder>/pretrained, which SpeechBrain's
SpeakerRecognition.from_hparams loads, and with the command that verifies
trials.
"""

import functools
import importlib.util
import logging
import pathlib
import shlex
import sys

import numpy as np
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import if_main_process, main_process_only
from speechbrain.utils.logger import get_logger
from speechbrain.utils.train_logger import TensorboardLogger
from voxceleb_prepare import prepare_voxceleb

from speechbrain_ext.core import ResumableBrain, average_last
from speechbrain_ext.dataio.crops import CropDataset
from speechbrain_ext.dataio.dataloader import ResumableBatches
from speechbrain_ext.dataio.encoder import speaker_classes
from speechbrain_ext.dataio.label_noise import corrupt_labels, write_corrupted
from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.shards import write_shards
from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.inference.embedding import utterance_loader
from speechbrain_ext.inference.export import export_pretrained, load_pretrained
from speechbrain_ext.nnet.sharded import sharded
from speechbrain_ext.processing.scoring import cosine_scores
from speechbrain_ext.utils.command_line import parse_command_line
from speechbrain_ext.utils.distributed import (
    fail_together,
    join_processes,
    leave,
    main_first,
    part,
    rank,
    summed,
    world_size,
)
from speechbrain_ext.utils.metrics import EER
from speechbrain_ext.utils.recipe import (
    RecipeText,
    claim_folder,
    load_recipe,
    require_same_seed,
)

logger = get_logger(__name__)

# What is averaged, exported, and kept for fine-tuning
TRAINED = ("embedding_model", "classifier", "loss")

# What this script reads of a YAML; a key that nothing uses is an error
KEYS = (
    *("seed", "output_folder", "save_folder", "data_folder", "trial_lists"),
    *("dev_speakers", "dev_trials", "max_unreadable", "skip_prep"),
    *("file_list", "shards"),
    *("sample_rate", "sentence_len", "batch_size", "sampler", "precision"),
    *("train_dataloader_opts", "dev_batch_seconds", "max_grad_norm"),
    *("average_checkpoints", "verification_recipe", "start_from"),
    *("label_noise", "speeds", "augment", "spec_augment"),
    *("shard_classifier", "ckpt_interval_minutes"),
    *("embedding_size", "classifier", "modules", "opt_class", "lr_schedule"),
    *("margin_schedule", "epoch_counter", "label_encoder", "checkpointer"),
    "train_logger",
)


class SpeakerBrain(ResumableBrain):
    """Trains an encoder and follows its EER on held-out speakers."""

    def compute_forward(self, batch, stage):
        """From waveforms to cosines (training) or embeddings (validation)."""
        train, options = stage == sb.Stage.TRAIN, {}
        seeds = batch.seed.tolist() if train else None
        if train and getattr(self.modules.compute_features, "dither", 0) > 0:
            options["seeds"] = seeds
        whole = train and bool((batch.sig.lengths == 1).all())
        wavs, lengths = batch.to(self.device).sig
        if train and hasattr(batch, "noise"):
            wavs = self.hparams.augment.apply(
                wavs, lengths, batch.noise.data, batch.response.data
            )
        if whole:
            lengths = None  # crops of one length: nothing to mask
        features = self.modules.compute_features(wavs, **options)
        features = self.modules.mean_var_norm(features, lengths)
        if train and self.hparams.spec_augment is not None:
            features = self.hparams.spec_augment(features, seeds)
        embeddings = self.modules.embedding_model(features, lengths)
        return self.modules.classifier(embeddings) if train else embeddings

    def compute_objectives(self, predictions, batch, stage):
        """The loss (training), or keeps the embeddings (validation)."""
        if stage == sb.Stage.TRAIN:
            return self.modules.loss(predictions, batch.spk_id_encoded.data)
        self.embeddings[batch.row.cpu()] = predictions.squeeze(1).float().cpu()
        return torch.zeros(1)

    def on_fit_batch_start(self, batch, should_step):
        """Sets rate and margin by the epochs done."""
        super().on_fit_batch_start(batch, should_step)
        done = self.hparams.epoch_counter.current - 1
        done += (self.step - 1) / self.steps_per_epoch
        self.rate = self.hparams.lr_schedule(done)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        if hasattr(self.trained["loss"], "margin"):
            self.trained["loss"].margin = self.hparams.margin_schedule(done)

    def on_stage_start(self, stage, epoch=None):
        """Starts the counts of an epoch."""
        super().on_stage_start(stage, epoch)
        if stage == sb.Stage.VALID:
            self.embeddings = torch.zeros(
                self.dev_utterances, self.hparams.embedding_size
            )

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs an epoch and saves its checkpoint."""
        if stage == sb.Stage.TRAIN:
            stats = self.epoch_stats
            self.train_stats = {
                "loss": stage_loss,
                "utterances/s": round(stats["utterances"] / stats["seconds"]),
                "data wait": stats["waited"] / stats["seconds"],
                "largest gradient norm": stats["largest_norm"],
            }
            if self.dev_trials is None:
                self.end_epoch(epoch)
        elif stage == sb.Stage.VALID:
            self.end_epoch(epoch, self.dev_eer())

    def dev_eer(self):
        """The EER of the embeddings at hand on the development trials."""
        enrol, test, target = self.dev_trials
        # each process has filled in the rows of its batches
        embeddings = summed(self.embeddings.to(self.device)).cpu()
        scores = cosine_scores(embeddings, enrol, test)
        return EER(scores[target], scores[~target])[0]

    def end_epoch(self, epoch, eer=None):
        """Writes the log line and the checkpoint."""
        self.log_epoch(epoch, eer)
        kept = {"epoch": epoch} if eer is None else {"epoch": epoch, "EER": eer}
        self.save_epoch(kept, self.hparams.average_checkpoints)

    @main_process_only
    def log_epoch(self, epoch, eer):
        """Writes an epoch to the logs."""
        meta = {"epoch": epoch, "lr": self.rate}
        if hasattr(self.trained["loss"], "margin"):
            meta["margin"] = float(self.trained["loss"].margin)
        valid = None if eer is None else {"EER": 100 * eer}
        for train_logger in self.train_loggers:
            train_logger.log_stats(meta, self.train_stats, valid)

    def evaluate_dev(self, dev_set):
        """The EER of the modules as they are."""
        self.on_stage_start(sb.Stage.VALID)
        self.modules.eval()
        for batch in dev_set:
            self.evaluate_batch(batch, sb.Stage.VALID)
        return self.dev_eer()


def make_brain(hparams, text, run_opts):
    """The Brain, its head as wide as the data has classes."""
    classes = len(hparams["label_encoder"])
    modules = {**hparams["modules"], "classifier": hparams["classifier"]}
    if hparams["shard_classifier"]:
        modules["classifier"] = sharded(hparams["classifier"])
    for name, module in modules.items():
        if isinstance(module, functools.partial):  # !name: in the YAML
            modules[name] = module(out_neurons=classes)
    modules["loss"].shard = getattr(modules["classifier"], "shard", None)
    trained = {name: modules[name] for name in TRAINED}
    hparams["checkpointer"].add_recoverables(trained)
    hparams["checkpointer"].add_recoverable("recipe", RecipeText(text))
    if hparams["start_from"]:
        taken = load_pretrained(
            hparams["start_from"], trained, hparams["label_encoder"]
        )
        logger.info(
            f"Going on from {hparams['start_from']}: {taken} of {classes} "
            "classes are known to its head."
        )
    brain = SpeakerBrain(
        modules=modules,
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.trained = trained
    brain.train_loggers = [hparams["train_logger"]]
    if importlib.util.find_spec("tensorboard") and if_main_process():
        folder = pathlib.Path(hparams["output_folder"], "tensorboard")
        brain.train_loggers.append(TensorboardLogger(str(folder)))
    brain.dev_trials, brain.dev_utterances = None, 0
    if not hparams["dev_speakers"]:
        logger.info("No development EER: `dev_speakers` is 0.")
    for name in ("noises", "responses"):
        if not getattr(hparams["augment"], name, True):
            logger.info(f"No augmentation with {name}: no folder is given.")
    return brain


def train_loader(hparams, brain, manifest, labels):
    """Crops in batches, drawn from (seed, epoch, utterance)."""
    in_batches = getattr(hparams["augment"], "in_batches", False)
    if in_batches is None:
        in_batches = torch.device(brain.device).type == "cuda"
    dataset = CropDataset(
        manifest,
        labels,
        hparams["sentence_len"],
        hparams["seed"],
        hparams["sample_rate"],
        hparams["speeds"],
        hparams["augment"],
        in_batches,
    )
    sampler = hparams["sampler"](manifest, rank=rank(), world_size=world_size())
    brain.train_sampler = ResumableBatches(sampler)
    brain.steps_per_epoch = len(sampler)
    options = dict(hparams["train_dataloader_opts"])
    if not options.get("num_workers"):
        options.pop("persistent_workers", None)  # torch refuses it
    return torch.utils.data.DataLoader(
        dataset,
        batch_sampler=brain.train_sampler,
        collate_fn=PaddedBatch,
        **options,
    )


def dev_loader(hparams, brain):
    """Whole utterances of the held-out speakers, or None."""
    if not hparams["dev_speakers"]:
        return None
    save_folder = pathlib.Path(hparams["save_folder"])
    manifest = read_manifest(save_folder / "dev.csv")
    trials = read_trials(save_folder / "dev_trials.txt")
    rows = {name: row for row, name in enumerate(manifest["ID"])}
    brain.dev_utterances = len(manifest)
    brain.dev_trials = (
        torch.tensor([rows[name] for name in trials["enrol"]]),
        torch.tensor([rows[name] for name in trials["test"]]),
        torch.from_numpy(trials["target"].to_numpy(dtype=bool).copy()),
    )
    workers = hparams["train_dataloader_opts"].get("num_workers", 0)
    seconds = hparams["dev_batch_seconds"]
    return utterance_loader(manifest, seconds, workers, rank(), world_size())


def finish(hparams, brain, dev_set):
    """What is exported: the last checkpoints' average, or a better one."""
    checkpointer, exported = hparams["checkpointer"], dict(brain.trained)
    if hparams["shard_classifier"]:
        exported["classifier"] = hparams["classifier"](
            out_neurons=len(hparams["label_encoder"])
        )
    last = average_last(checkpointer, exported, hparams["average_checkpoints"])
    if dev_set is None:
        logger.info(f"Averaged the last {last} checkpoints.")
        return exported
    eer = brain.evaluate_dev(dev_set)
    best = checkpointer.find_checkpoint(min_key="EER")
    logger.info(
        f"Development EER: {100 * eer:.2f} % for the average of the last "
        f"{last} checkpoints, {100 * best.meta['EER']:.2f} % for epoch "
        f"{best.meta['epoch']}; the lower one is exported."
    )
    if best.meta["EER"] < eer:
        for name, module in exported.items():
            state = torch.load(best.paramfiles[name], map_location="cpu")
            module.load_state_dict(state)
    return exported


def prepare(hparams):
    """Manifests, before anything else is touched."""
    prepare_voxceleb(
        data_folder=hparams["data_folder"],
        save_folder=hparams["save_folder"],
        trial_lists=hparams["trial_lists"],
        dev_speakers=hparams["dev_speakers"],
        dev_trials=hparams["dev_trials"],
        max_unreadable=hparams["max_unreadable"],
        seed=hparams["seed"],
        skip_prep=hparams["skip_prep"],
        file_list=hparams["file_list"],
    )


def training_manifest(hparams):
    """What is trained on, and its file: as prepared, or labelled wrongly."""
    folder = pathlib.Path(hparams["save_folder"])
    path = folder / "train.csv"
    manifest = read_manifest(path)
    if not hparams["label_noise"]:
        return manifest, path
    options = {"seed": hparams["seed"], **hparams["label_noise"]}
    for name in ("kind", "rate"):
        if name not in options:
            raise ValueError(f"`label_noise` lacks '{name}'.")
    if "outside" in options:
        options["outside"] = read_manifest(options["outside"])
    manifest, report = corrupt_labels(manifest, **options)
    path = folder / "train_noisy.csv"
    if if_main_process():
        write_corrupted(manifest, report, path)
    logger.info(
        f"Label noise: {report['corrupted']} of {report['utterances']} labels "
        f"are wrong ({100 * report['rate_reached']:.2f} %)."
    )
    return manifest, path


def main(argv):
    """Trains by the command line and returns the pretrained folder."""
    # on the screen until the output folder exists, which has a log of its own
    logging.basicConfig(level=logging.INFO, format="%(name)s - %(message)s")
    try:
        recipe, run_opts, overrides = parse_command_line(argv, __file__)
        run_opts = join_processes(run_opts)
        hparams, text = fail_together(load_recipe, recipe, overrides, KEYS)
        fail_together(require_same_seed, hparams["save_folder"], text)
        main_first(prepare, hparams, once_per_node=True)
        manifest, cohort = main_first(training_manifest, hparams)
        if hparams["shards"]:  # written once, whatever the labels are
            manifest = main_first(write_shards, manifest, hparams["shards"])
        labels = main_first(
            speaker_classes,
            manifest["spk_id"],
            hparams["label_encoder"],
            pathlib.Path(hparams["save_folder"], "label_encoder.txt"),
            hparams["start_from"],
            hparams["speeds"],
        )
        sb.create_experiment_directory(hparams["output_folder"])
        main_first(claim_folder, hparams["output_folder"], text)
        brain = fail_together(make_brain, hparams, text, run_opts)
        train_set = fail_together(
            train_loader, hparams, brain, manifest, labels
        )
        dev_set = fail_together(dev_loader, hparams, brain)
        describe(hparams, brain, manifest)
        brain.fit(hparams["epoch_counter"], train_set, dev_set)
    except FloatingPointError as error:
        logger.error(error)
        leave(error)
    except (ValueError, OSError) as error:
        leave(error)
    exported = finish(hparams, brain, dev_set)
    folder = pathlib.Path(hparams["output_folder"], "pretrained")
    if if_main_process():
        encoder, size = hparams["label_encoder"], hparams["embedding_size"]
        export_pretrained(folder, text, exported, encoder, size)
        offer_verification(hparams, recipe, folder, cohort)
    part()
    return folder


def describe(hparams, brain, manifest):
    """Logs what is trained on, and the highest rate."""
    epochs = hparams["epoch_counter"].limit
    steps = np.arange(0, epochs, 1 / brain.steps_per_epoch)
    highest = max(hparams["lr_schedule"](float(done)) for done in steps)
    logger.info(
        f"{len(manifest)} utterances of {manifest['spk_id'].nunique()} "
        f"speakers ({len(hparams['label_encoder'])} classes), "
        f"{brain.steps_per_epoch} updates an epoch at a global batch of "
        f"{hparams['batch_size']} on {world_size()} process(es); highest "
        f"learning rate {highest:.4g}."
    )


def offer_verification(hparams, recipe, folder, cohort):
    """Logs the command that verifies trials with this encoder."""
    verification = pathlib.Path(recipe).parent / hparams["verification_recipe"]
    options = {
        "data_folder": hparams["data_folder"],
        "pretrained_folder": folder,
        "cohort_manifest": cohort,
    }
    command = ["python", "speaker_verification_cosine.py", str(verification)]
    command += [f"--{key}={value}" for key, value in options.items()]
    logger.info(f"The encoder is in {folder}. To verify trials:")
    logger.info(shlex.join(command))


if __name__ == "__main__":
    main(sys.argv[1:])
