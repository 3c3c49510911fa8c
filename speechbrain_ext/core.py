"""A Brain for several processes whose runs can be interrupted and resumed."""

import json
import math
import time

import speechbrain as sb
import torch
from speechbrain.core import INTRA_EPOCH_CKPT_FLAG
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_broadcast
from speechbrain.utils.logger import get_logger
from torch.nn.parallel import DistributedDataParallel

from speechbrain_ext.dataio.dataloader import ReadableBatches, explain_reading
from speechbrain_ext.nnet.normalization import share_batch_statistics
from speechbrain_ext.utils.checkpoints import checkpoint_order, is_automatic
from speechbrain_ext.utils.distributed import all_reduce_mean, world_size
from speechbrain_ext.utils.gradients import total_gradient_norm
from speechbrain_ext.utils.memory import batch_size, fitting_batch_named

logger = get_logger(__name__)

# Statistics of an epoch; checkpoints within the epoch hold them
STATISTICS = {
    "seconds": 0.0,
    "waited": 0.0,
    "utterances": 0,
    "largest_norm": 0.0,
    "skipped": 0,
    "clipped": 0,
}


@register_checkpoint_hooks
class ResumableBrain(sb.Brain):
    """A Brain that can be interrupted and spread over processes.

    Several processes train the weights that one process trains, up to
    rounding, and a resumed run ends with the weights of an uninterrupted one.
    Batch statistics, loss and gradient norm are those of all processes, on a
    CPU too. A module whose parameters are split
    (``speechbrain_ext.nnet.sharded``) is not wrapped.

    If the loss or a gradient is not finite, all processes stop before the
    step, and the error names the batch. With SpeechBrain's
    ``skip_nonfinite_grads`` (a flag or a YAML key) such gradients are skipped
    and counted; more than ``nonfinite_patience`` in a row stop the run. In
    fp16 the scaler skips them and lowers its scale; at a scale of 1 or less
    they are an error too.

    A checkpoint within an epoch holds the statistics of the epoch. With a
    ``ResumableBatches`` sampler the run resumes at the next batch.

    Extends ``speechbrain.core.Brain``; see there for the other arguments.

    Arguments
    ---------
    checkpointer : speechbrain_ext.utils.checkpoints.AtomicCheckpointer
        Saves and finds the checkpoints; None for no checkpoints.
    train_sampler : torch.utils.data.Sampler
        The batch sampler of the training data. With a ``ResumableBatches`` a
        run resumes within an epoch. None leaves it to SpeechBrain.

    Raises
    ------
    ValueError
        If the device does not support the precision.

    Example
    -------
    >>> brain = ResumableBrain({"layer": torch.nn.Linear(2, 3)})
    >>> brain.step
    0
    """

    def __init__(
        self,
        modules=None,
        opt_class=None,
        hparams=None,
        run_opts=None,
        checkpointer=None,
        train_sampler=None,
    ):
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        self.train_sampler = train_sampler
        if self.debug and checkpointer is not None:
            folder = ddp_broadcast(checkpointer.checkpoints_dir)
            checkpointer.checkpoints_dir = folder  # one temporary folder
        wanted = {self.precision, self.eval_precision}
        if self.device_type == "cuda" and "bf16" in wanted:
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                raise ValueError(
                    "`precision` is bf16, which "
                    f"{torch.cuda.get_device_name()} does not support; pass "
                    "--precision=fp16 or fp32."
                )
        self.epoch = None
        self.epoch_stats = dict(STATISTICS)
        self.batch_ended = time.perf_counter()
        self.batch_ids = []
        self.nonfinite_count = 0  # skipped updates in a row
        self.saved_steps = None
        split = any(hasattr(p, "shard") for p in self.modules.parameters())
        if split and world_size() > 1 and self.scaler.is_enabled():
            # here, because it takes half a second to import
            from torch.distributed.fsdp.sharded_grad_scaler import (
                ShardedGradScaler,
            )

            # if the classes of one process overflow, all must skip the step
            self.scaler = ShardedGradScaler(self.device_type)
            if self.checkpointer is not None:
                self.checkpointer.add_recoverable(
                    "scaler", self.scaler, optional_load=True
                )

    def _wrap_distributed(self):
        if not self.distributed_launch:
            super()._wrap_distributed()
            return
        on_cpu = self.device_type == "cpu"
        for name, module in self.modules.items():
            parameters = list(module.parameters())
            if any(hasattr(p, "shard") for p in parameters):
                continue
            if not any(p.requires_grad for p in parameters):
                continue
            if on_cpu:
                module = share_batch_statistics(module)
            else:
                module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
            self.modules[name] = DistributedDataParallel(
                module,
                device_ids=None if on_cpu else [self.device],
                # buffers are the same on every process
                broadcast_buffers=False,
                find_unused_parameters=self.find_unused_parameters,
            )

    def on_stage_start(self, stage, epoch=None):
        """Starts the statistics of an epoch, or resumes them.

        Overrides ``speechbrain.core.Brain.on_stage_start``; see there.
        """
        if stage == sb.Stage.TRAIN:
            self._start_epoch(epoch)

    def _start_epoch(self, epoch):
        """Sets the statistics and the first batch; safe to call twice."""
        self.epoch = epoch
        steps = self._steps_per_epoch()
        if self.step and steps not in (None, self.saved_steps):
            old = self.saved_steps or steps
            step = min(self.step * steps // old, steps - 1)
            step -= step % self.grad_accumulation_factor
            if step != self.step:
                logger.warning(
                    f"The checkpoint is of step {self.step} of {old}, and an "
                    f"epoch has {steps} steps now: it resumes behind {step}."
                )
            self.step, self.saved_steps = step, steps
        if self.step == 0:
            self.epoch_stats = dict(STATISTICS)
            self.avg_train_loss = 0.0
        self.epoch_stats = {**STATISTICS, **self.epoch_stats}
        self.batch_ids = []
        if steps is not None:
            self.train_sampler.start = self.step
        self.batch_ended = time.perf_counter()

    def _steps_per_epoch(self):
        """Batches of an epoch, None where the sampler cannot resume."""
        resumes = hasattr(self.train_sampler, "start")
        return len(self.train_sampler) if resumes else None

    def _fit_train(self, train_set, epoch, enable):
        # not in a hook: a subclass may override hooks without super()
        self._start_epoch(epoch)
        with explain_reading():
            super()._fit_train(ReadableBatches(train_set), epoch, enable)

    def _fit_valid(self, valid_set, epoch, enable):
        if valid_set is not None:
            valid_set = ReadableBatches(valid_set)
        with explain_reading():
            super()._fit_valid(valid_set, epoch, enable)

    def validate(self, valid_set):
        """Runs a validation stage on the current weights, without its end.

        SpeechBrain's ``evaluate`` would load a checkpoint.

        Arguments
        ---------
        valid_set : torch.utils.data.DataLoader
            The batches.
        """
        self.on_stage_start(sb.Stage.VALID)
        self.modules.eval()
        with explain_reading():
            for batch in ReadableBatches(valid_set):
                self.evaluate_batch(batch, sb.Stage.VALID)

    def fit_batch(self, batch):
        """Makes an update; returns the loss of the global batch.

        Overrides ``speechbrain.core.Brain.fit_batch``; see there.

        Raises
        ------
        FloatingPointError
            On all processes, if the loss or the gradient is not finite.
        BatchMemoryError
            If there is too little memory; a single process says what fits.
        """
        self.epoch_stats["waited"] += time.perf_counter() - self.batch_ended
        self.batch_ids += map(str, getattr(batch, "id", ()))
        with fitting_batch_named(self, batch):
            super().fit_batch(batch)
        ended = time.perf_counter()
        self.epoch_stats["seconds"] += ended - self.batch_ended
        self.epoch_stats["utterances"] += world_size() * batch_size(batch)
        self.batch_ended = ended
        return self.global_loss.cpu()

    def check_loss_isfinite(self, loss):
        """Stops the run before the step if the loss is not finite.

        Overrides ``speechbrain.core.Brain.check_loss_isfinite``; see there.

        Raises
        ------
        FloatingPointError
            On all processes, if the loss of one is not finite; it names the
            batch.
        """
        self.global_loss = all_reduce_mean(loss.detach())
        if not torch.isfinite(self.global_loss):
            mine = [] if torch.isfinite(loss) else self.batch_ids
            raise FloatingPointError(
                f"The loss is {self.global_loss.item()} {self._place()}; no "
                f"step was made. {_named(mine)}Look at these files, or lower "
                "the learning rate."
            )
        if self.scaler.is_enabled():
            self.global_loss = self.global_loss / self.scaler.get_scale()
        self.global_loss = self.global_loss * self.grad_accumulation_factor

    def optimizers_step(self):
        """Clips the gradients of all parameter groups and makes a step.

        Overrides ``speechbrain.core.Brain.optimizers_step``; see there.

        Raises
        ------
        FloatingPointError
            On all processes, if the gradient is not finite.
        """
        optimizers = self.freeze_optimizers(self._optimizers()).values()
        if not optimizers:
            return
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
        groups = [g for o in optimizers for g in o.param_groups]
        parameters = [p for group in groups for p in group["params"]]
        norm = total_gradient_norm(parameters)
        if self.max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(
                parameters, self.max_grad_norm, norm
            )
        if self._may_step(float(norm)):
            for optimizer in optimizers:
                self.scaler.step(optimizer)
            self.optimizer_step += 1
        self.scaler.update()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.batch_ids = []

    def train_figures(self, loss):
        """The figures of an epoch of training, for the logs.

        Arguments
        ---------
        loss : float
            The mean loss of the epoch.

        Returns
        -------
        dict
            Loss, speed, share of the time that was spent waiting for data,
            largest gradient norm, and the updates whose gradient was clipped
            or that were skipped, if there are any.
        """
        stats = self.epoch_stats
        seconds = max(stats["seconds"], 1e-9)
        figures = {
            "loss": loss,
            "utterances/s": round(stats["utterances"] / seconds),
            "data wait": round(stats["waited"] / seconds, 3),
            "largest gradient norm": float(f"{stats['largest_norm']:.4g}"),
        }
        for name in ("clipped", "skipped"):
            if stats[name]:
                figures[f"{name} updates"] = stats[name]
        return figures

    def _may_step(self, norm):
        """Whether the gradient is finite; if not, counts it or stops."""
        if math.isfinite(norm):
            largest = max(self.epoch_stats["largest_norm"], norm)
            self.epoch_stats["largest_norm"] = largest
            self.epoch_stats["clipped"] += norm > self.max_grad_norm > 0
            self.nonfinite_count = 0
            return True
        self.epoch_stats["skipped"] += 1
        if self.scaler.is_enabled() and self.scaler.get_scale() > 1:
            return False  # an overflow of fp16: the scale is lowered
        self.nonfinite_count += 1
        said = (
            f"The gradient norm is {norm} {self._place()}, though the loss is "
            f"{self.global_loss.item():.4g}; no step was made. "
            f"{_named(self.batch_ids)}"
        )
        if not self.skip_nonfinite_grads:
            raise FloatingPointError(
                f"{said}Look at these files, lower the learning rate, or skip "
                "such batches with --skip_nonfinite_grads."
            )
        if self.nonfinite_count > self.nonfinite_patience:
            raise FloatingPointError(
                f"{said}It was not finite {self.nonfinite_count} times in a "
                f"row, and --nonfinite_patience is {self.nonfinite_patience}; "
                "lower the learning rate."
            )
        logger.warning(f"{said}The batch is skipped.")
        return False

    def _place(self):
        """Epoch, step and learning rate, for an error."""
        place = f"at epoch {self.epoch}, step {self.step}"
        for optimizer in self._optimizers().values():
            place += f", learning rate {optimizer.param_groups[0]['lr']:.4g}"
        return place

    def _optimizers(self):
        """The optimizers by name; SpeechBrain keeps them in two places."""
        if self.optimizers_dict is None and self.opt_class is not None:
            return {"opt_class": self.optimizer}
        return self.optimizers_dict or {}

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        # the end of the epoch has a checkpoint of its own, and no checkpoint
        # holds the gradients between two updates
        at_end = self.step == self._steps_per_epoch()
        between = self.step % self.grad_accumulation_factor != 0
        return not (
            at_end or between
        ) and super()._should_save_intra_epoch_ckpt(
            last_ckpt_time, steps_since_ckpt
        )

    def _save_intra_epoch_ckpt(self):
        # SpeechBrain's meta has the time only; this has epoch and step
        meta = {INTRA_EPOCH_CKPT_FLAG: True, "step": self.step}
        if self.epoch is not None:
            meta["epoch"] = self.epoch
        if self._steps_per_epoch():
            meta["done"] = self.step / self._steps_per_epoch()
        self.checkpointer.save_and_keep_only(
            meta=meta,
            end_of_epoch=False,
            num_to_keep=1,
            ckpt_predicate=lambda c: INTRA_EPOCH_CKPT_FLAG in c.meta,
        )

    def save_epoch(self, meta, keep):
        """Saves the checkpoint of an epoch and deletes old ones.

        The checkpoint of the lowest EER stays, and so do the last ones: at
        least two, in case the last one is damaged.

        Arguments
        ---------
        meta : dict
            ``epoch``, and ``EER`` if there is one.
        keep : int
            Number of last checkpoints to keep.
        """
        self.checkpointer.save_checkpoint(meta=meta)
        best = self.checkpointer.find_checkpoint(
            min_key="EER", ckpt_predicate=is_automatic
        )
        best = None if best is None else best.path
        self.checkpointer.delete_checkpoints(
            num_to_keep=max(keep, 2),
            importance_keys=[checkpoint_order],
            ckpt_predicate=lambda c: c.meta["end-of-epoch"] and c.path != best,
        )
        self.checkpointer.delete_checkpoints(
            num_to_keep=0, ckpt_predicate=lambda c: not c.meta["end-of-epoch"]
        )

    @mark_as_saver
    def _save(self, path):
        state = {
            "step": self.step,
            "steps_per_epoch": self._steps_per_epoch(),
            "avg_train_loss": self.avg_train_loss,
            "optimizer_step": self.optimizer_step,
            "epoch_stats": self.epoch_stats,
            "grad_accumulation_factor": self.grad_accumulation_factor,
        }
        with open(path, "w", encoding="utf-8") as file:
            json.dump(state, file)

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        self.optimizer_step = state["optimizer_step"]
        factor = state.get("grad_accumulation_factor")
        if factor not in (None, self.grad_accumulation_factor):
            logger.warning(
                "The run has changed since the checkpoint: "
                f"--grad_accumulation_factor: {factor} -> "
                f"{self.grad_accumulation_factor}"
            )
        if not end_of_epoch:
            self.step = state["step"]
            self.saved_steps = state.get("steps_per_epoch")
            self.avg_train_loss = state["avg_train_loss"]
            self.epoch_stats = state["epoch_stats"]


def _named(names):
    """The utterances of a batch, of all processes, for a message."""
    every = [list(names)]
    if world_size() > 1:
        every = [None] * world_size()
        torch.distributed.all_gather_object(every, list(names))
    names = [name for process in every for name in process]
    return f"The batch: {' '.join(names)}. " if names else ""
