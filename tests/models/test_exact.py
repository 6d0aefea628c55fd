"""The precision of a GPU's convolutions while a frozen model runs; on a CPU the GPU is pretended."""

import threading

import pytest
import torch
from torch import nn

from gradprobe.models.backbones import frozen
from gradprobe.models.exact import exact_convolutions

cudnn = torch.backends.cudnn


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert cudnn.allow_tf32
    yield
    assert cudnn.allow_tf32


def test_convolutions_are_exact_while_a_frozen_model_runs(gpu):
    with frozen(nn.Conv2d(1, 1, 1)):
        assert not cudnn.allow_tf32
    assert cudnn.allow_tf32


@pytest.mark.skipif(not hasattr(cudnn, "conv"), reason="since torch 2.9 each operation has a setting of its own")
def test_a_setting_of_convolutions_alone_comes_back(gpu):
    cudnn.conv.fp32_precision = "ieee"  # from here on torch refuses to tell allow_tf32
    try:
        cudnn.rnn.fp32_precision = "tf32"
        with exact_convolutions():
            assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("ieee", "ieee")
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("ieee", "tf32")
    finally:
        cudnn.allow_tf32 = True


def test_the_last_of_several_threads_brings_the_setting_back(gpu):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with exact_convolutions():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with exact_convolutions():
        thread.start()
        inside.wait()
    assert not cudnn.allow_tf32
    leave.set()
    thread.join()
    assert cudnn.allow_tf32


def test_an_exception_leaves_the_setting_as_it_was(gpu):
    with pytest.raises(ValueError, match="x"), exact_convolutions():
        raise ValueError("x")
    assert cudnn.allow_tf32


def test_without_a_gpu_nothing_is_touched():
    with exact_convolutions():
        assert cudnn.allow_tf32
