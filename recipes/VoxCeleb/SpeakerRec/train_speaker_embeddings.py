#!/usr/bin/env python3
"""Trains a speaker encoder: one Brain for every loss and every backbone.

    python train_speaker_embeddings.py hparams/resnet_csphereface2.yaml \
        --data_folder=/data/VoxCeleb

The YAML names all that is built. The same command resumes a run that was
stopped. It ends with <output_folder>/pretrained, which SpeechBrain's
SpeakerRecognition.from_hparams loads, and with the command that verifies
trials.
"""

import functools
import importlib.util
import logging
import pathlib
import shlex
import sys
import time

import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process, main_process_only
from speechbrain.utils.logger import get_logger
from voxceleb_prepare import prepare_voxceleb

from speechbrain_ext.core import ResumableBrain, average_last
from speechbrain_ext.dataio.crops import CropDataset
from speechbrain_ext.dataio.dataloader import (
    ReadableBatches,
    ResumableBatches,
    crop_loader,
    explain_reading,
)
from speechbrain_ext.dataio.label_noise import write_corrupted
from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.shards import write_shards
from speechbrain_ext.dataio.speaker_labels import LabelMapCheck, speaker_classes
from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.inference.embedding import utterance_loader
from speechbrain_ext.inference.export import (
    export_pretrained,
    load_pretrained,
    require_exportable,
)
from speechbrain_ext.inference.noisy_labels import noisy_manifest
from speechbrain_ext.nnet.schedulers import check_schedules
from speechbrain_ext.nnet.sharded import sharded
from speechbrain_ext.processing.scoring import cosine_scores
from speechbrain_ext.utils.command_line import parse_command_line
from speechbrain_ext.utils.distributed import (
    all_reduce_sum,
    init_processes,
    main_process_first,
    raise_on_all,
    rank,
    shut_down_processes,
    world_size,
)
from speechbrain_ext.utils.experiment import start_experiment
from speechbrain_ext.utils.failures import one_sentence
from speechbrain_ext.utils.files import (
    explain_disk_full,
    refuse_links,
    require_own,
)
from speechbrain_ext.utils.metrics import EER
from speechbrain_ext.utils.plots import training_curves
from speechbrain_ext.utils.recipe import (
    RecipeText,
    load_recipe,
    require_resumable,
)
from speechbrain_ext.utils.tensors import read_tensors
from speechbrain_ext.utils.train_logger import (
    EpochTensorboardLogger,
    HistoryLogger,
    quiet_libraries,
    read_history,
)

logger = get_logger(__name__)

# What is averaged, exported, and kept for fine-tuning
TRAINED = ("embedding_model", "classifier", "loss")

# What this script reads of a YAML; a key that nothing uses is an error
KEYS = (
    *("seed", "output_folder", "save_folder", "data_folder", "trial_lists"),
    *("dev_speakers", "dev_trials", "max_unreadable", "skip_prep"),
    *("file_list", "layout", "shards"),
    *("sample_rate", "sentence_len", "batch_size", "sampler", "precision"),
    *("train_dataloader_opts", "dev_batch_seconds", "max_grad_norm"),
    "skip_nonfinite_grads",
    *("select", "average_checkpoints", "verification_recipe", "start_from"),
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
        for group in self.optimizer.param_groups:
            group["lr"] = self.hparams.lr_schedule(done)
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
            seconds = max(stats["seconds"], 1e-9)
            self.train_ended = time.perf_counter()
            self.train_stats = {
                "loss": stage_loss,
                "utterances/s": round(stats["utterances"] / seconds),
                "data wait": round(stats["waited"] / seconds, 3),
                "largest gradient norm": float(f"{stats['largest_norm']:.4g}"),
            }
            if stats["skipped"]:
                self.train_stats["skipped updates"] = stats["skipped"]
            if self.dev_trials is None:
                self.end_epoch(epoch)
        elif stage == sb.Stage.VALID:
            self.end_epoch(epoch, self.dev_eer())

    def dev_eer(self):
        """The EER of the embeddings at hand on the development trials."""
        enrol, test, target = self.dev_trials
        # each process has filled in the rows of its batches
        embeddings = all_reduce_sum(self.embeddings.to(self.device)).cpu()
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
        epochs = self.hparams.epoch_counter.limit
        seconds = time.perf_counter() - self.train_ended
        seconds += self.epoch_stats["seconds"]
        meta = {"epoch": epoch, "epochs": epochs}
        meta["lr"] = self.optimizer.param_groups[0]["lr"]
        if hasattr(self.trained["loss"], "margin"):
            meta["margin"] = float(self.trained["loss"].margin)
        meta["seconds left"] = seconds * (epochs - epoch)
        valid = None if eer is None else {"EER": 100 * eer}
        for train_logger in self.train_loggers:
            train_logger.log_stats(meta, self.train_stats, valid)

    def evaluate_dev(self, dev_set):
        """The EER of the modules as they are."""
        self.on_stage_start(sb.Stage.VALID)
        self.modules.eval()
        with explain_reading():
            for batch in ReadableBatches(dev_set):
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
    hparams["checkpointer"].add_recoverable(
        "label_map",
        LabelMapCheck(hparams["label_encoder"]),
        optional_load=True,
    )
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
    folder = pathlib.Path(hparams["output_folder"])
    brain.train_loggers = [hparams["train_logger"]]
    if if_main_process():
        require_own(folder / "training.png")
        brain.train_loggers.append(HistoryLogger(folder / "epochs.jsonl"))
    if importlib.util.find_spec("tensorboard") and if_main_process():
        log = EpochTensorboardLogger(str(folder / "tensorboard"))
        brain.train_loggers.append(log)
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
    options = hparams["train_dataloader_opts"]
    return crop_loader(dataset, brain.train_sampler, options)


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
    share, rate = (rank(), world_size()), hparams["sample_rate"]
    return utterance_loader(manifest, seconds, workers, *share, rate)


def finish(hparams, brain, dev_set):
    """The modules to export, as `select` says, with their chosen weights."""
    checkpointer, exported = hparams["checkpointer"], dict(brain.trained)
    if hparams["shard_classifier"]:
        exported["classifier"] = hparams["classifier"](
            out_neurons=len(hparams["label_encoder"])
        )
    best = checkpointer.find_checkpoint(min_key="EER")
    if hparams["select"] == "lowest_eer":
        for name, module in exported.items():
            module.load_state_dict(read_tensors(best.paramfiles[name]))
        logger.info(
            f"Exported: epoch {best.meta['epoch']}, the best. Development EER: "
            f"{100 * best.meta['EER']:.2f} %."
        )
        return exported
    count = average_last(checkpointer, exported, hparams["average_checkpoints"])
    logger.info(f"Exported: the average of the last {count} checkpoint(s).")
    if dev_set is not None:
        logger.info(
            f"Development EER: {100 * brain.evaluate_dev(dev_set):.2f} % for "
            f"this average, {100 * best.meta['EER']:.2f} % for the best epoch, "
            f"{best.meta['epoch']}. --select=lowest_eer exports the best epoch."
        )
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
        layout=hparams["layout"],
    )


def training_manifest(hparams, device):
    """What is trained on, and its file: as prepared, or labelled wrongly."""
    folder = pathlib.Path(hparams["save_folder"])
    path = folder / "train.csv"
    manifest = read_manifest(path)
    asked = hparams["label_noise"]
    if asked is None or asked is False:
        return manifest, path
    manifest, report = noisy_manifest(manifest, asked, hparams["seed"], device)
    path = folder / "train_noisy.csv"
    if if_main_process():
        write_corrupted(manifest, report, path)
    else:  # a GPU's last digit may decide which speaker is the nearest
        manifest["spk_id"] = read_manifest(path)["spk_id"].to_numpy()
    logger.info(
        f"Label noise: {report['corrupted']} of {report['utterances']} labels "
        f"are wrong ({100 * report['rate_reached']:.2f} %)."
    )
    return manifest, path


def check_options(hparams):
    """Raises for what would fail after the training, or change nothing."""
    count = hparams["average_checkpoints"]
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(
            "`average_checkpoints` must be a whole number of 1 or more, got "
            f"{count}; 1 exports the last checkpoint."
        )
    if hparams["select"] == "lowest_eer" and not hparams["dev_speakers"]:
        raise ValueError(
            "`select` is lowest_eer, which needs a development EER, but "
            "`dev_speakers` is 0; hold out speakers, or set `select` to "
            "average."
        )
    check_schedules(
        hparams["modules"]["loss"],
        hparams["margin_schedule"],
        hparams["opt_class"],
        hparams["lr_schedule"],
    )


def main(argv):
    """Trains by the command line and returns the pretrained folder."""
    # on the screen until the output folder exists, which has a log of its own
    logging.basicConfig(level=logging.INFO, format="%(name)s - %(message)s")
    logging.raiseExceptions = False  # on a full disk training says it itself
    quiet_libraries()
    with one_sentence("The same command resumes at the last checkpoint."):
        recipe, run_opts, overrides = parse_command_line(argv, __file__)
        run_opts = init_processes(run_opts)
        hparams, text = raise_on_all(
            load_recipe, recipe, overrides, KEYS, run_opts
        )
        output_folder = pathlib.Path(hparams["output_folder"])
        raise_on_all(refuse_links, output_folder)
        raise_on_all(require_resumable, hparams["save_folder"], text)
        raise_on_all(check_options, hparams)
        with explain_disk_full(output_folder):
            return train(recipe, run_opts, hparams, text)


def train(recipe, run_opts, hparams, text):
    """Trains, exports, and returns the pretrained folder."""
    main_process_first(prepare, hparams, once_per_node=True)
    manifest, cohort = main_process_first(
        training_manifest, hparams, run_opts.get("device", "cpu")
    )
    if hparams["shards"]:  # written once, whatever the labels are
        manifest = main_process_first(write_shards, manifest, hparams["shards"])
    labels = main_process_first(
        speaker_classes,
        manifest["spk_id"],
        hparams["label_encoder"],
        pathlib.Path(hparams["save_folder"], "label_encoder.txt"),
        hparams["start_from"],
        hparams["speeds"],
    )
    output_folder = pathlib.Path(hparams["output_folder"])
    logs = ["train_log.txt"]
    main_process_first(start_experiment, output_folder, text, __file__, logs)
    main_process_first(require_exportable, output_folder / "pretrained")
    brain = raise_on_all(make_brain, hparams, text, run_opts)
    train_set = raise_on_all(train_loader, hparams, brain, manifest, labels)
    dev_set = raise_on_all(dev_loader, hparams, brain)
    describe(hparams, brain, manifest)
    brain.fit(hparams["epoch_counter"], train_set, dev_set)
    exported = finish(hparams, brain, dev_set)
    folder = output_folder / "pretrained"
    if if_main_process():
        encoder, size = hparams["label_encoder"], hparams["embedding_size"]
        export_pretrained(folder, text, exported, encoder, size)
        history = read_history(folder.with_name("epochs.jsonl"))
        if history:
            training_curves(history, folder.with_name("training.png"))
        offer_verification(hparams, recipe, folder, cohort)
    shut_down_processes()
    return folder


def describe(hparams, brain, manifest):
    """Logs what is trained on, and on what; and the highest rate."""
    epochs = hparams["epoch_counter"].limit
    steps = np.arange(0, epochs, 1 / brain.steps_per_epoch)
    highest = max(hparams["lr_schedule"](float(done)) for done in steps)
    workers = hparams["train_dataloader_opts"].get("num_workers", 0)
    logger.info(
        f"{len(manifest)} utterances ({manifest['duration'].sum():.0f} s of "
        f"speech) of {manifest['spk_id'].nunique()} "
        f"speakers ({len(hparams['label_encoder'])} classes), "
        f"{brain.steps_per_epoch} updates an epoch at a global batch of "
        f"{hparams['batch_size']} on {world_size()} process(es); highest "
        f"learning rate {highest:.4g}."
    )
    logger.info(
        f"Device {brain.device}, precision {brain.precision}, {workers} "
        "DataLoader worker(s) a process."
    )


def offer_verification(hparams, recipe, folder, cohort):
    """Logs the command that verifies trials with this encoder."""
    verification = pathlib.Path(recipe).parent / hparams["verification_recipe"]
    options = {
        "data_folder": hparams["data_folder"],
        "pretrained_folder": folder,
        "cohort_manifest": cohort,
    }
    for key in ("file_list", "layout", "trial_lists"):
        if hparams[key] is not None:
            options[key] = hparams[key]
    command = ["python", "speaker_verification_cosine.py", str(verification)]
    command += [f"--{key}={value}" for key, value in options.items()]
    logger.info(f"The encoder is in {folder}. To verify trials:")
    logger.info(shlex.join(command))


if __name__ == "__main__":
    main(sys.argv[1:])
