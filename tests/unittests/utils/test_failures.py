"""One sentence instead of a traceback where a script fails."""

import logging

import pytest
import torch

from speechbrain_ext.utils.failures import one_sentence


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a value"), "error: a value"),
        (OSError("a file"), "error: a file"),
        (FloatingPointError("a loss"), "error: a loss"),
        (MemoryError(), "Out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. x"), "`batch_size`"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Out of"),
        (
            RuntimeError(
                "[/pytorch/third_party/gloo/x.cc:1] Connection closed"
            ),
            "Another process of this run has ended",
        ),
        (torch.distributed.DistBackendError("NCCL x"), "Another process"),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(error, said):
    with pytest.raises(SystemExit) as caught, one_sentence():
        raise error
    assert said in caught.value.code
    assert "\n" not in caught.value.code


@pytest.mark.parametrize("kind", [RuntimeError, TypeError, KeyError])
def test_a_bug_keeps_its_traceback(kind):
    with pytest.raises(kind, match="a bug"), one_sentence():
        raise kind("a bug")


def test_interrupt_is_one_line(capsys):
    with pytest.raises(SystemExit) as caught, one_sentence("Run it again."):
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert capsys.readouterr().err == "\nInterrupted. Run it again.\n"


def test_the_reason_is_in_the_log_file(tmp_path):
    handler = logging.FileHandler(tmp_path / "log.txt")
    logging.getLogger().addHandler(handler)
    try:
        with pytest.raises(SystemExit), one_sentence():
            raise OSError("gone")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert (tmp_path / "log.txt").read_text() == "gone\n"
