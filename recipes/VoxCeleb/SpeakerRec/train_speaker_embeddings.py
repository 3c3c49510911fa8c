#!/usr/bin/env python3
"""Trains a speaker encoder: one Brain for every loss and every backbone.

    python train_speaker_embeddings.py hparams/resnet_csphereface2.yaml \
        --data_folder=/data/VoxCeleb

The YAML names everything that is built. The same command resumes a run that
was interrupted. In the end <output_folder>/pretrained holds the encoder, for
SpeechBrain's SpeakerRecognition.from_hparams, and the log tells the command
that verifies trials.
"""

import functools
import logging
import pathlib
import sys
import time

import speechbrain as sb
import torch
from speechbrain.utils.distributed import (
    if_main_process,
    infer_device,
    main_process_only,
)
from speechbrain.utils.logger import get_logger
from voxceleb_prepare import prepare_voxceleb

from speechbrain_ext.dataio.crops import CropDataset
from speechbrain_ext.dataio.dataloader import ResumableBatches, crop_loader
from speechbrain_ext.dataio.fingerprinted_files import restored_links
from speechbrain_ext.dataio.parallel import removed_on_error
from speechbrain_ext.dataio.preparation import OUTPUTS
from speechbrain_ext.dataio.shards import write_shards
from speechbrain_ext.dataio.speaker_labels import (
    LabelMapCheck,
    require_same_labels,
    speaker_classes,
)
from speechbrain_ext.inference.embedding import utterance_loader
from speechbrain_ext.inference.export import (
    export_pretrained,
    require_exportable,
)
from speechbrain_ext.inference.model_card import data_sentence
from speechbrain_ext.inference.noisy_labels import (
    development_data,
    training_manifest,
)
from speechbrain_ext.inference.start_from import head_folder, load_pretrained
from speechbrain_ext.label_filtering import LabelFilteringBrain
from speechbrain_ext.nnet.sharded import sharded
from speechbrain_ext.processing.development import (
    DevelopmentTrials,
    few_trials,
)
from speechbrain_ext.training_checks import check_training, require_untrained
from speechbrain_ext.utils.command_line import parse_command_line
from speechbrain_ext.utils.distributed import (
    init_processes,
    main_process_first,
    raise_on_all,
    rank,
    shut_down_processes,
    world_size,
)
from speechbrain_ext.utils.experiment import (
    log_training,
    offer_verification,
    start_experiment,
)
from speechbrain_ext.utils.failures import one_sentence
from speechbrain_ext.utils.files import explain_disk_full, refuse_links
from speechbrain_ext.utils.label_plots import label_noise_curves
from speechbrain_ext.utils.model_selection import load_selected
from speechbrain_ext.utils.plots import training_curves
from speechbrain_ext.utils.recipe import RecipeText, claim_folders, load_recipe
from speechbrain_ext.utils.train_logger import (
    open_loggers,
    quiet_libraries,
    read_history,
)

logger = get_logger(__name__)

# The modules that are averaged, exported, and needed for fine-tuning
TRAINED = ("embedding_model", "classifier", "loss")

# The keys that this script reads; a YAML with a key that nothing uses is wrong
KEYS = (
    "seed", "output_folder", "save_folder", "data_folder", "trial_lists",
    "file_list", "layout", "skip_prep", "max_unreadable", "dev_speakers",
    "dev_trials", "label_noise", "dev_label_noise", "label_filter", "shards",
    "sample_rate", "sentence_len", "batch_size", "sampler", "speeds", "augment",
    "spec_augment", "train_dataloader_opts", "dev_batch_seconds",
    "embedding_size", "modules", "classifier", "shard_classifier", "start_from",
    "head_from", "frozen_epochs", "encoder_lr_scale", "label_encoder",
    "margin_schedule", "opt_class", "lr_schedule", "epoch_counter", "precision",
    "max_grad_norm", "skip_nonfinite_grads", "checkpointer",
    "ckpt_interval_minutes", "train_logger", "select", "average_checkpoints",
    "verification_recipe", "weights_license",
)  # fmt: skip


class SpeakerBrain(LabelFilteringBrain):
    """Trains an encoder and follows its EER on held-out speakers."""

    def __init__(self, train_loggers, dev=None, means=None, **brain_arguments):
        super().__init__(**brain_arguments)
        self.train_loggers = train_loggers
        self.dev_set, self.dev_trials = dev or (None, None)
        self.means = means  # what a classifier from mean embeddings is made of
        # not wrapped for several processes, as those in self.modules will be
        self.trained = {name: self.modules[name] for name in TRAINED}

    def compute_forward(self, batch, stage):
        """From waveforms to cosines (training) or embeddings (validation)."""
        train, options = stage == sb.Stage.TRAIN, {}
        seeds = batch.seed.tolist() if train else None
        if train and getattr(self.modules.compute_features, "dither", 0) > 0:
            options["seeds"] = seeds
        shares = batch.sig.lengths  # on the CPU, where they can be read
        whole = train and bool((shares == 1).all())
        wavs, lengths = batch.to(self.device).sig
        if train and hasattr(batch, "noise"):
            wavs = self.hparams.augment.apply(
                wavs, lengths, batch.noise.data, batch.response.data
            )
        if whole:
            lengths = shares = None  # crops of one length: nothing to mask
        features = self.modules.compute_features(wavs, **options)
        features = self.modules.mean_var_norm(features, lengths)
        if train and self.hparams.spec_augment is not None:
            features = self.hparams.spec_augment(features, seeds, shares)
        embeddings = self.encode(features, lengths)
        return self.modules.classifier(embeddings) if train else embeddings

    def compute_objectives(self, predictions, batch, stage):
        """Computes the loss (training) or keeps embeddings (validation)."""
        if stage == sb.Stage.TRAIN:
            return self.classification_loss(predictions, batch)
        self.dev_trials.keep(batch.row, predictions)
        return torch.zeros(1)

    def on_fit_start(self):
        """Sets a new classifier and logs the EER of an encoder started from."""
        super().on_fit_start()
        if self.optimizer_step or not self.hparams.start_from:
            return
        if self.means is not None:
            self.start_from_means(*self.means)
        if self.dev_set is not None:
            self.validate(self.dev_set)
            meta = {"epoch": 0, "epochs": self.hparams.epoch_counter.limit}
            self.log(meta, None, self.dev_trials.kept_eer(self.device))

    def on_fit_batch_start(self, batch, should_step):
        """Sets the learning rate and the margin of this batch."""
        super().on_fit_batch_start(batch, should_step)
        done = self.epochs_done()
        self.set_learning_rate(self.hparams.lr_schedule(done))
        if hasattr(self.trained["loss"], "margin"):
            self.trained["loss"].margin = self.hparams.margin_schedule(done)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs an epoch and saves its checkpoint."""
        super().on_stage_end(stage, stage_loss, epoch)
        if stage == sb.Stage.TRAIN:
            self.train_ended = time.perf_counter()
            self.train_stats = self.train_figures(stage_loss)
            if hasattr(self.trained["loss"], "bias"):  # of SphereFace2
                bias = self.trained["loss"].bias.item()
                self.train_stats["bias"] = bias
            if self.dev_trials is None:
                self.end_epoch(epoch)
        elif stage == sb.Stage.VALID:
            self.end_epoch(epoch, self.dev_trials.kept_eer(self.device))

    def end_epoch(self, epoch, eer=None):
        """Logs an epoch and saves its checkpoint."""
        self.log_epoch(epoch, eer)
        kept = {"epoch": epoch} if eer is None else {"epoch": epoch, "EER": eer}
        self.save_epoch(kept, self.hparams.average_checkpoints)

    @main_process_only
    def log(self, meta, train_stats, eer):
        """Writes a line to every log."""
        valid = None if eer is None else {"EER": 100 * eer}
        for train_logger in self.train_loggers:
            train_logger.log_stats(meta, train_stats, valid)

    def log_epoch(self, epoch, eer):
        """Writes the log line of an epoch."""
        epochs = self.hparams.epoch_counter.limit
        seconds = time.perf_counter() - self.train_ended
        seconds += self.epoch_stats["seconds"]
        rate = self.optimizer.param_groups[0]["lr"]
        meta = {"epoch": epoch, "epochs": epochs, "lr": rate}
        if hasattr(self.trained["loss"], "margin"):
            meta["margin"] = float(self.trained["loss"].margin)
        meta["seconds left"] = seconds * (epochs - epoch)
        self.log(meta, self.train_stats, eer)


def make_modules(hparams, text):
    """The modules of the Brain; the classifier has the classes of the data."""
    labels, classifier = hparams["label_encoder"], hparams["classifier"]
    if hparams["shard_classifier"]:
        classifier = sharded(classifier)
    modules = {**hparams["modules"], "classifier": classifier}
    for name, module in modules.items():
        if isinstance(module, functools.partial):  # !name: in the YAML
            modules[name] = module(out_neurons=len(labels))
    modules["loss"].shard = getattr(modules["classifier"], "shard", None)
    if start := hparams["start_from"]:
        loaded = {name: modules[name] for name in TRAINED}
        load_pretrained(start, loaded, labels, hparams["head_from"], text)
    return modules


def make_brain(hparams, text, run_opts, train_set, dev, means, data):
    """The Brain with what it saves and where it logs."""
    modules, checkpointer = make_modules(hparams, text), hparams["checkpointer"]
    checkpointer.add_recoverables({name: modules[name] for name in TRAINED})
    checkpointer.add_recoverable("recipe", RecipeText(text))
    label_map = LabelMapCheck(hparams["label_encoder"], data[0])
    checkpointer.add_recoverable("label_map", label_map, optional_load=True)
    if not hparams["dev_speakers"]:
        logger.info("No development EER: `dev_speakers` is 0.")
    for name, key, what in (
        ("noises", "noise_folder", "noise"),
        ("responses", "rir_folder", "reverberation"),
    ):
        if not getattr(hparams["augment"], name, True):
            logger.info(f"No {what} is added: `{key}` is null.")
    loggers = []
    if not run_opts["debug"]:
        folder, train_logger = hparams["output_folder"], hparams["train_logger"]
        loggers = open_loggers(folder, train_logger)
    return SpeakerBrain(
        loggers,
        dev,
        means,
        modules=modules,
        opt_class=hparams["opt_class"],
        hparams={**hparams, "modules": modules},
        run_opts=run_opts,
        checkpointer=checkpointer,
        train_sampler=train_set.batch_sampler,
        frozen_epochs=hparams["frozen_epochs"],
        encoder_lr_scale=hparams["encoder_lr_scale"],
        label_filter=hparams["label_filter"],
        manifest=data[0],
        labels=data[1],
        label_encoder=hparams["label_encoder"],
        speeds=hparams["speeds"],
    )


def train_loader(hparams, device, manifest, labels):
    """Crops in batches, drawn from (seed, epoch, utterance)."""
    in_batches = getattr(hparams["augment"], "in_batches", False)
    if in_batches is None:
        in_batches = torch.device(device).type == "cuda"
    # without folders there is nothing to send to the device
    in_batches = in_batches and bool(getattr(hparams["augment"], "choices", 1))
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
    options = hparams["train_dataloader_opts"]
    return crop_loader(dataset, ResumableBatches(sampler), options)


def whole_utterances(hparams, manifest):
    """Utterances in padded batches; each process gets its part of them."""
    return utterance_loader(
        manifest,
        hparams["dev_batch_seconds"],
        hparams["train_dataloader_opts"].get("num_workers", 0),
        rank(),
        world_size(),
        hparams["sample_rate"],
    )


def dev_loader(hparams, data, debug):
    """Whole utterances of the held-out speakers, and their trials."""
    if data is None:
        return None
    if debug:  # a few utterances, in one batch
        data = few_trials(*data)
        hparams = {**hparams, "dev_batch_seconds": 1e9}
    trials = DevelopmentTrials(*data, hparams["embedding_size"])
    return whole_utterances(hparams, data[0]), trials


def finish(hparams, brain):
    """The modules to export, with the weights that `select` asks for."""
    exported, classes = dict(brain.trained), len(hparams["label_encoder"])
    if hparams["shard_classifier"]:  # exported whole
        exported["classifier"] = hparams["classifier"](out_neurons=classes)
    select, count = hparams["select"], hparams["average_checkpoints"]
    best = load_selected(hparams["checkpointer"], exported, select, count)
    if select == "average" and brain.dev_set is not None and best is not None:
        brain.validate(brain.dev_set)
        eer = brain.dev_trials.kept_eer(brain.device)
        logger.info(
            f"Development EER: {100 * eer:.2f} % for this average, "
            f"{100 * best.meta['EER']:.2f} % for the best epoch, "
            f"{best.meta['epoch']}. --select=lowest_eer exports the best epoch."
        )
    return exported


def prepare(hparams):
    """Writes the manifests, before anything else is written."""
    return prepare_voxceleb(
        data_folder=hparams["data_folder"],
        save_folder=hparams["save_folder"],
        trial_lists=hparams["trial_lists"],
        dev_speakers=hparams["dev_speakers"],
        dev_trials=hparams["dev_trials"],
        max_unreadable=hparams["max_unreadable"],
        seed=hparams["seed"],
        skip_prep=hparams["skip_prep"],
        file_list=hparams["file_list"],
        layout=hparams["layout"],
    )


def read_data(hparams, device):
    """Prepares the corpus; reads manifests and class numbers."""
    map_folder = main_process_first(
        head_folder, hparams["start_from"], hparams["head_from"]
    )
    prepared = main_process_first(prepare, hparams, once_per_node=True)
    save_folder, speeds = hparams["save_folder"], hparams["speeds"]
    manifest, cohort = main_process_first(
        training_manifest,
        save_folder,
        hparams["label_noise"],
        hparams["seed"],
        device,
        functools.partial(require_same_labels, save_folder, map_folder, speeds),
    )
    dev_data = main_process_first(
        development_data,
        save_folder,
        hparams["dev_speakers"],
        hparams["dev_trials"],
        hparams["dev_label_noise"],
        hparams["seed"],
        device,
    )
    if hparams["shards"]:  # written once, for any labels
        manifest = main_process_first(
            write_shards, manifest, hparams["shards"], once_per_node=True
        )
    labels = main_process_first(
        speaker_classes,
        manifest["spk_id"],
        hparams["label_encoder"],
        pathlib.Path(save_folder, "label_encoder.txt"),
        map_folder,
        speeds,
    )
    return manifest, labels, dev_data, (cohort, prepared.trial_lists)


def train(recipe, run_opts, hparams, text):
    """Trains, exports, and returns the pretrained folder."""
    output_folder = pathlib.Path(hparams["output_folder"])
    save_folder = hparams["save_folder"]
    device = run_opts["device"] or infer_device()
    logs = filter(None, [getattr(hparams["train_logger"], "save_file", None)])
    with removed_on_error(output_folder), removed_on_error(save_folder):
        main_process_first(claim_folders, output_folder, save_folder, text)
        if run_opts["debug"]:
            raise_on_all(require_untrained, output_folder, save_folder)
        # a run that is refused leaves the data of the one before it
        with restored_links(save_folder, OUTPUTS.values()):
            manifest, labels, dev_data, others = read_data(hparams, device)
            main_process_first(
                start_experiment, output_folder, text, __file__, logs
            )
    main_process_first(require_exportable, output_folder / "pretrained")
    train_set = raise_on_all(train_loader, hparams, device, manifest, labels)
    debug, means = run_opts["debug"], None
    dev = raise_on_all(dev_loader, hparams, dev_data, debug)
    if hparams["head_from"] == "means":
        means = whole_utterances(hparams, manifest), labels
    data = manifest, labels
    brain = raise_on_all(
        make_brain, hparams, text, run_opts, train_set, dev, means, data
    )
    classes = len(hparams["label_encoder"])
    log_training(brain, manifest, classes, hparams["batch_size"])
    brain.fit(hparams["epoch_counter"], train_set, brain.dev_set)
    exported = finish(hparams, brain)
    folder = output_folder / "pretrained"
    if run_opts["debug"]:
        logger.info("Nothing is exported, because this is a --debug run.")
    elif if_main_process():
        encoder, size = hparams["label_encoder"], hparams["embedding_size"]
        export_pretrained(
            folder,
            text,
            exported,
            encoder,
            size,
            data=data_sentence(manifest),
            weights_license=hparams["weights_license"],
        )
        if history := read_history(folder.with_name("epochs.jsonl")):
            training_curves(history, folder.with_name("training.png"))
            label_noise_curves(history, folder.with_name("label_noise.png"))
        beside = pathlib.Path(recipe).parent / hparams["verification_recipe"]
        offer_verification(hparams, beside, folder, *others)
    shut_down_processes()
    return folder


def main(argv):
    """Trains by the command line and returns the pretrained folder."""
    # on the screen only, until the output folder with its log.txt exists
    logging.basicConfig(level=logging.INFO, format="%(name)s - %(message)s")
    logging.raiseExceptions = False  # a full disk has its own error
    quiet_libraries()
    with one_sentence("The same command resumes at the last checkpoint."):
        recipe, run_opts, overrides = parse_command_line(argv, __file__)
        run_opts = init_processes(run_opts)
        hparams, text = raise_on_all(
            load_recipe, recipe, overrides, KEYS, run_opts
        )
        raise_on_all(refuse_links, hparams["output_folder"])
        raise_on_all(check_training, hparams, text, run_opts)
        with explain_disk_full(hparams["output_folder"]):
            return train(recipe, run_opts, hparams, text)


if __name__ == "__main__":
    main(sys.argv[1:])
