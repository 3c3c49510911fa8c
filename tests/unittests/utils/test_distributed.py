"""Collectives with gradients and common failures, on real gloo processes."""

import contextlib
import io
import os
import socket
import subprocess
import sys

import pytest
import torch
from processes import on_processes
from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.nnet.losses import GE2E, Triplet
from speechbrain_ext.utils import distributed
from speechbrain_ext.utils.distributed import (
    CommonFailureError,
    all_gather,
    all_reduce_mean,
    all_reduce_sum,
    exit_with_error,
    init_processes,
    main_process_first,
    raise_on_all,
    rank,
    replicated,
    shut_down_processes,
    world_size,
)

X = torch.randn(12, 1, 5, generator=torch.Generator().manual_seed(2))
Y = torch.arange(4).repeat(3).unsqueeze(1)


def metric_loss(make_loss, share):
    """A metric loss and its gradients, of this process's share."""
    loss, x = make_loss(), X[share].clone().requires_grad_()
    values = []
    for _ in range(2):  # the second with other negatives
        value = loss(x, Y[share])
        values.append(value.item())
    value.backward()
    # DistributedDataParallel's mean
    gradients = [all_reduce_mean(p.grad) for p in loss.parameters()]
    return values, x.grad, gradients


def alone():
    """What each function gives in one process of two."""
    share = slice(rank(), None, world_size())
    losses = [metric_loss(make, share) for make in (GE2E, Triplet)]
    x = torch.full((2,), 1.0 + rank(), requires_grad=True)
    (all_reduce_sum(x).square().sum() + replicated(x).sum()).backward()
    order = []

    def failing():
        order.append(rank())
        if rank() == 1:
            raise ValueError("no file")

    def everywhere():
        raise ValueError("bad recipe")

    with pytest.raises(CommonFailureError, match=r"^no file \(process 1\)$"):
        raise_on_all(failing)
    with pytest.raises(CommonFailureError, match="^bad recipe$"):
        main_process_first(everywhere, once_per_node=True)
    with pytest.raises(CommonFailureError, match=r"^no file \(process 1\)$"):
        # one waits within the function for the other, which has failed
        raise_on_all(lambda: rank() and failing() or raise_on_all(bool))
    assert main_process_first(lambda: 7) == 7
    # the first process of each machine calls, the others get its result
    for local_ranks, made in (("01", [0, 0]), ("00", [0, 1])):
        os.environ["LOCAL_RANK"] = local_ranks[rank()]
        assert main_process_first(rank, once_per_node=True) == made[rank()]
    assert all_gather(x.detach()).tolist() == [1, 1, 2, 2]
    return losses, x.grad, order


def test_two_processes_give_what_one_gives():
    found = on_processes(alone, 2)
    for number, make_loss in enumerate((GE2E, Triplet)):
        values, gradient, others = metric_loss(make_loss, slice(None))
        for process, (losses, _, _) in enumerate(found):
            got_values, got, got_others = losses[number]
            assert got_values == pytest.approx(values, abs=1e-6)
            # the mean over processes is taken of what they hand on
            torch.testing.assert_close(got / 2, gradient[process::2])
            torch.testing.assert_close(got_others, others)
    # 2 * the sum, and the number of processes
    for number, (_, gradient, order) in enumerate(found):
        assert gradient.tolist() == [2 * 3 + 2] * 2
        assert len(order) == 1 + number


def compiled():
    """Gradients through the collectives, without and with torch.compile."""

    def step(x):
        return (
            all_gather(x.sin()).square().sum() + all_reduce_sum(x).cos().sum()
        )

    found = []
    for call in (step, torch.compile(step, backend="eager")):
        x = torch.full((2,), 1.0 + rank(), requires_grad=True)
        call(x).backward()
        found.append(x.grad)
    return found


def test_compiled_collectives_keep_their_gradients():
    for gradient, other in on_processes(compiled, 2):
        assert gradient.abs().min() > 0
        torch.testing.assert_close(other, gradient)


def test_one_process_needs_no_others():
    x = torch.ones(2, requires_grad=True)
    for function in (all_gather, all_reduce_sum, replicated, all_reduce_mean):
        assert function(x) is x
    with pytest.raises(OSError, match="gone"):
        raise_on_all(_gone)
    with pytest.raises(SystemExit, match="^error: broken$"):
        exit_with_error(ValueError("broken"))
    shut_down_processes()
    options = RunOptions(device="cpu")
    assert init_processes(options) is options


def test_device_that_is_not_there_is_a_sentence(monkeypatch):
    def said(device):
        with pytest.raises(ValueError, match="`device`") as caught:
            init_processes(RunOptions(device=device))
        return str(caught.value)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "got 'foo'" in said("foo")
    assert "got 'cuda:one'" in said("cuda:one")
    assert "nvidia-smi" in said("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "got 'cuda:2', but PyTorch finds 2 GPUs" in said("cuda:2")
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert "2 processes, which need a GPU each" in said("cuda:0")


def test_a_device_without_float64_is_not_taken_by_itself(monkeypatch):
    mps = torch.device("mps")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: mps)
    assert init_processes(RunOptions())["device"] == "cpu"
    monkeypatch.setattr(distributed, "check_device", lambda name: None)
    assert init_processes(RunOptions(device="mps"))["device"] == "mps"


def fail_one_after_the_other():
    """What each process says where the second one fails first."""
    distributed._MET["store"] = torch.distributed.distributed_c10d.PrefixStore(
        "test", torch.distributed.distributed_c10d._get_default_store()
    )
    said = io.StringIO()
    for number in (1, 0):
        torch.distributed.barrier()
        if rank() == number:
            error = OSError("gone") if number else ConnectionError("closed")
            with pytest.raises(SystemExit), contextlib.redirect_stderr(said):
                exit_with_error(error)
    return [said.getvalue()]


def test_the_first_that_fails_is_the_one_that_says_why():
    found = on_processes(fail_one_after_the_other, 2)
    assert found == [[""], ["error: gone\n"]]


def _gone():
    raise OSError("gone")


def test_taken_port_is_one_message(free_port_taken):
    code = (
        "from speechbrain_ext.utils.distributed import exit_with_error\n"
        "from speechbrain_ext.utils.distributed import init_processes\n"
        "from speechbrain.utils.run_opts import RunOptions\n"
        "try:\n    init_processes(RunOptions(device='cpu'))\n"
        "except ValueError as error:\n    exit_with_error(error)\n"
    )
    environment = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port_taken),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 1
    said = f"error: The processes cannot connect at 127.0.0.1:{free_port_taken}"
    assert done.stderr.count(said) == 1


@pytest.fixture
def free_port_taken():
    """A port that another program listens on."""

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]
