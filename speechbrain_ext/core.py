"""A Brain for many processes whose runs can be stopped at any moment."""

import json
import time

import speechbrain as sb
import torch
from speechbrain.core import INTRA_EPOCH_CKPT_FLAG
from speechbrain.utils.checkpoints import (
    average_checkpoints,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel

from speechbrain_ext.nnet.normalization import share_batch_statistics
from speechbrain_ext.utils.checkpoints import checkpoint_order
from speechbrain_ext.utils.distributed import mean_over_processes, world_size
from speechbrain_ext.utils.tensors import read_tensors


@register_checkpoint_hooks
class ResumableBrain(sb.Brain):
    """SpeechBrain's Brain, exact on any number of processes and after a kill.

    Batch statistics are of all processes, on a CPU too; a module whose
    parameters are split (``speechbrain_ext.nnet.sharded``) is left to itself;
    loss and gradient norm are those of the global batch; a loss that is not
    finite ends all processes before a step is made. A checkpoint within an
    epoch holds the epoch's statistics, and the sampler goes on behind it.

    Arguments
    ---------
    modules : dict of torch.nn.Module
        As SpeechBrain's.
    opt_class : callable
        As SpeechBrain's.
    hparams : dict
        As SpeechBrain's.
    run_opts : dict
        As SpeechBrain's.
    checkpointer : speechbrain_ext.utils.checkpoints.WholeCheckpointer
        As SpeechBrain's.

    Raises
    ------
    ValueError
        If the device lacks the precision.

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
    ):
        super().__init__(modules, opt_class, hparams, run_opts, checkpointer)
        wanted = {self.precision, self.eval_precision}
        if self.device_type == "cuda" and "bf16" in wanted:
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                raise ValueError(
                    f"`precision` is bf16, which {torch.cuda.get_device_name()}"
                    " lacks; pass --precision=fp16 or fp32."
                )
        self.epoch_stats = {}
        split = any(hasattr(p, "shard") for p in self.modules.parameters())
        if split and self.scaler.is_enabled():
            # an overflow in one process's classes is every process's
            self.scaler = ShardedGradScaler(self.device_type)
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
                # they are the same on every process
                broadcast_buffers=False,
                find_unused_parameters=self.find_unused_parameters,
            )

    def on_stage_start(self, stage, epoch=None):
        """Starts the statistics of an epoch, or goes on with them.

        Arguments
        ---------
        stage : speechbrain.Stage
            The stage.
        epoch : int
            The epoch.
        """
        if stage == sb.Stage.TRAIN:
            if self.step == 0:
                self.epoch_stats = {
                    "seconds": 0.0,
                    "waited": 0.0,
                    "utterances": 0,
                    "largest_norm": 0.0,
                }
            self.train_sampler.start = self.step
            self.batch_ended = time.perf_counter()

    def on_fit_batch_start(self, batch, should_step):
        """Stops the clock of waiting for data.

        Arguments
        ---------
        batch : speechbrain.dataio.batch.PaddedBatch
            The batch.
        should_step : bool
            Whether the optimiser will step.
        """
        self.batch_ids = batch.id
        waited = time.perf_counter() - self.batch_ended
        self.epoch_stats["waited"] += waited
        self.epoch_stats["seconds"] += waited
        self.batch_started = time.perf_counter()

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Counts utterances and starts the clock of waiting for data.

        Arguments
        ---------
        batch : speechbrain.dataio.batch.PaddedBatch
            The batch.
        outputs : torch.Tensor
            What the network gave.
        loss : torch.Tensor
            The loss.
        should_step : bool
            Whether the optimiser has stepped.
        """
        self.batch_ended = time.perf_counter()
        self.epoch_stats["seconds"] += self.batch_ended - self.batch_started
        self.epoch_stats["utterances"] += world_size() * len(batch)

    def fit_batch(self, batch):
        """Makes an update.

        Arguments
        ---------
        batch : speechbrain.dataio.batch.PaddedBatch
            This process's share of the batch.

        Returns
        -------
        torch.Tensor
            The loss of the global batch.
        """
        super().fit_batch(batch)
        return self.global_loss.cpu()

    def check_loss_isfinite(self, loss):
        """Stops the run, before a step is made, and names the batch.

        Arguments
        ---------
        loss : torch.Tensor
            The loss, scaled.

        Raises
        ------
        FloatingPointError
            If it is not finite on one process, on all of them.
        """
        self.global_loss = mean_over_processes(loss.detach())
        if not torch.isfinite(self.global_loss):
            names = [(bool(torch.isfinite(loss)), list(self.batch_ids))]
            if world_size() > 1:
                names = [None] * world_size()
                mine = (bool(torch.isfinite(loss)), list(self.batch_ids))
                torch.distributed.all_gather_object(names, mine)
            bad = [name for fine, batch in names if not fine for name in batch]
            raise FloatingPointError(
                f"The loss is {self.global_loss.item()} at epoch "
                f"{self.hparams.epoch_counter.current}, step {self.step}, "
                f"learning rate {self.optimizer.param_groups[0]['lr']:.4g}; "
                f"no step was made. The batch: {' '.join(bad)}. Look at these "
                "files, or lower the learning rate."
            )
        if self.scaler.is_enabled():
            self.global_loss = self.global_loss / self.scaler.get_scale()
        self.global_loss = self.global_loss * self.grad_accumulation_factor

    def optimizers_step(self):
        """A step with the gradients of all parameter groups clipped."""
        self.scaler.unscale_(self.optimizer)
        parameters = list(self.modules.parameters())
        norm = total_gradient_norm(parameters)
        if self.max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(
                parameters, self.max_grad_norm, norm
            )
        self.epoch_stats["largest_norm"] = max(
            self.epoch_stats["largest_norm"], float(norm)
        )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer_step += 1

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        # at its end the epoch's own checkpoint comes
        return self.step < len(
            self.train_sampler
        ) and super()._should_save_intra_epoch_ckpt(
            last_ckpt_time, steps_since_ckpt
        )

    def _save_intra_epoch_ckpt(self):
        # as SpeechBrain's, but known by epoch and step, not by the clock
        self.checkpointer.save_and_keep_only(
            meta={
                INTRA_EPOCH_CKPT_FLAG: True,
                "epoch": self.hparams.epoch_counter.current,
                "step": self.step,
            },
            end_of_epoch=False,
            num_to_keep=1,
            ckpt_predicate=lambda c: INTRA_EPOCH_CKPT_FLAG in c.meta,
        )

    def save_epoch(self, meta, keep):
        """Saves an epoch's checkpoint and deletes those that are not needed.

        Kept are the last ones, at least two, so that one that is cut short
        has one before it, and the one of the lowest EER.

        Arguments
        ---------
        meta : dict
            ``epoch``, and ``EER`` where there is one.
        keep : int
            How many of the last ones are kept.
        """
        self.checkpointer.save_checkpoint(meta=meta)
        best = self.checkpointer.find_checkpoint(min_key="EER")
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
            "avg_train_loss": self.avg_train_loss,
            "optimizer_step": self.optimizer_step,
            "epoch_stats": self.epoch_stats,
        }
        with open(path, "w", encoding="utf-8") as file:
            json.dump(state, file)

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        self.optimizer_step = state["optimizer_step"]
        if not end_of_epoch:
            self.step = state["step"]
            self.avg_train_loss = state["avg_train_loss"]
            self.epoch_stats = state["epoch_stats"]


def average_last(checkpointer, modules, count):
    """Loads the average of the last epochs' checkpoints.

    Arguments
    ---------
    checkpointer : speechbrain.utils.checkpoints.Checkpointer
        Where they are; those within an epoch do not count.
    modules : dict of torch.nn.Module
        What is averaged, by the names there; none of them split.
    count : int
        How many, at the most.

    Returns
    -------
    int
        How many there were.

    Example
    -------
    >>> layer = torch.nn.Linear(2, 3)
    >>> checkpointer = sb.utils.checkpoints.Checkpointer(
    ...     getfixture("tmp_path"), {"layer": layer}
    ... )
    >>> _ = checkpointer.save_checkpoint(meta={"epoch": 1})
    >>> average_last(checkpointer, {"layer": layer}, 10)
    1
    """
    last = checkpointer.find_checkpoints(
        importance_key=checkpoint_order,
        max_num_checkpoints=count,
        ckpt_predicate=lambda checkpoint: checkpoint.meta["end-of-epoch"],
    )
    for name, module in modules.items():
        state = average_checkpoints(
            last, name, lambda path, map_location: read_tensors(path)
        )
        module.load_state_dict(state)
    return len(last)


def total_gradient_norm(parameters):
    """The norm of all gradients, over all processes where they are split.

    Arguments
    ---------
    parameters : list of torch.nn.Parameter
        Replicated parameters, and ones that carry a ``shard``.

    Returns
    -------
    torch.Tensor
        The norm, a scalar.

    Example
    -------
    >>> parameter = torch.nn.Parameter(torch.zeros(2))
    >>> parameter.grad = torch.tensor([3.0, 4.0])
    >>> total_gradient_norm([parameter])
    tensor(5.)
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    split = [p.grad for p in with_gradient if hasattr(p, "shard")]
    norm = torch.nn.utils.get_total_norm(
        p.grad for p in with_gradient if not hasattr(p, "shard")
    )
    if split:
        squared = torch.nn.utils.get_total_norm(split).square()
        if world_size() > 1:
            torch.distributed.all_reduce(squared)
        norm = (norm.square() + squared).sqrt()
    return norm
