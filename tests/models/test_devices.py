"""Devices that are not possible are refused in one line with reason and remedy, alike wherever one is named."""

import warnings

import pytest
import torch

from gradprobe import devices
from gradprobe.devices import check_dtype, cuda_available, device_named, supports_bfloat16
from gradprobe.errors import UsageError
from gradprobe.models.loading import load_backbone
from gradprobe.tasks import classification
from gradprobe.vlm.deploy import _default_dtype

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)


@pytest.fixture
def cuda(monkeypatch):
    """A machine whose torch was built for CUDA, as these functions of it tell."""

    def machine(count=0, capability=(9, 0), error=None, version="13.0", warning=None):
        def available():
            if warning:
                warnings.warn(warning, stacklevel=1)  # as torch does where the driver is too old
            return count > 0 and error is None

        def init():
            if error is not None:
                raise error

        monkeypatch.setattr(torch.version, "cuda", version)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch, "__version__", "2.11.0+cu130" if version else "2.11.0+cpu")
        for name, value in {
            "is_available": available, "init": init, "device_count": lambda: count,
            "get_device_capability": lambda device: capability, "get_device_name": lambda device: "Tesla V9",
            "get_arch_list": lambda: ["sm_70", "sm_90", "compute_90"],
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)

    return machine


def refusal(name, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no words of torch beside ours
        with pytest.raises(UsageError) as caught:
            device_named(name, **options)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"--device {name} is not possible here (")
    return text


@pytest.mark.parametrize("name", ["tpu9", "cuda:-1", "cuda:x", "", "CUDA", "meta"])
def test_what_is_no_device_is_told_what_is(name):
    assert "possible: cpu" in refusal(name)


def test_devices_that_are_there():
    assert device_named("cpu") == torch.device("cpu") == device_named(torch.device("cpu"))


def test_gpus_are_counted(cuda):
    cuda(count=2)
    assert device_named("cuda") == torch.device("cuda") and device_named("cuda:1").index == 1
    text = refusal("cuda:2")
    assert "there is no such GPU here: 2 were found, cuda:0 to cuda:1" in text
    assert "possible: cpu, cuda:0, cuda:1" in text
    assert "possible: cpu, cuda:0, cuda:1, auto" in refusal("gpu", others=["auto"])
    cuda(count=1)
    assert "one was found, cuda:0" in refusal("cuda:7")


def test_a_machine_without_a_gpu_says_so(cuda):
    cuda(error=RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU."))
    assert "no such GPU here: Found no NVIDIA driver on your system); possible: cpu" in refusal("cuda")
    cuda(error=RuntimeError("No CUDA GPUs are available"))
    assert "no such GPU here: No CUDA GPUs are available" in refusal("cuda:0")
    cuda(error=RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility"))
    assert "Unexpected error from cudaGetDeviceCount()" in refusal("cuda")


def test_a_torch_without_cuda_says_so(cuda):
    cuda(version=None, error=AssertionError("Torch not compiled with CUDA enabled"))
    assert "torch 2.11.0+cpu was built without CUDA" in refusal("cuda") and "pytorch.org" in refusal("cuda")


@pytest.mark.parametrize(
    ("found", "driver", "remedy"),
    [
        ("11040", "11.4", "pip install torch --index-url https://download.pytorch.org/whl/cu118"),
        ("12080", "12.8", "pip install torch --index-url https://download.pytorch.org/whl/cu126"),
        ("9010", "9.1", "install a torch for an older CUDA"),
    ],
)
def test_an_old_driver_is_named_with_what_torch_was_built_for_and_a_remedy(found, driver, remedy, cuda):
    message = TOO_OLD.replace("11040", found)
    cuda(count=1, error=RuntimeError(message), warning=f"CUDA initialization: {message}")
    text = refusal("cuda")
    assert f"the NVIDIA driver is too old: it is for CUDA {driver}, and torch 2.11.0+cu130 for CUDA 13.0" in text
    assert "update the driver, or" in text and text.endswith(remedy)
    assert "possible: cpu;" in text and "www.nvidia.com" not in text


def test_a_gpu_older_than_torch_is_refused_before_it_fails(cuda):
    cuda(count=1, capability=(3, 7))
    text = refusal("cuda")
    assert "Tesla V9 has compute capability 3.7, and torch 2.11.0+cu130 was built for 7 and newer" in text
    assert "possible: cpu; install an older torch" in text


def test_mps_where_it_is_not(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "needs macOS" in refusal("mps")
    assert "or leave it" in refusal("mps", kinds=("cpu", "cuda"), hint="or leave it")


@pytest.mark.parametrize(("capability", "native"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_bfloat16_needs_a_gpu_that_has_it(capability, native, cuda):
    cuda(count=1, capability=capability)
    place = torch.device("cuda", 0)
    assert supports_bfloat16(place) is native and supports_bfloat16(torch.device("cpu"))
    assert _default_dtype("cuda") == ("bfloat16" if native else "float16") and _default_dtype("cpu") == "float32"
    check_dtype("float16", place)
    if native:
        check_dtype("bfloat16", place)
    else:
        with pytest.raises(UsageError, match=r"--dtype bfloat16 .* cuda:0 \(Tesla V9 .*\); give --dtype float32"):
            check_dtype("bfloat16", place)


def test_float64_is_not_possible_on_mps():
    with pytest.raises(UsageError, match="--dtype float64 is not possible on mps; give --dtype float32"):
        check_dtype("float64", torch.device("mps"))


def test_no_warning_of_torch_is_shown(cuda):
    cuda(error=RuntimeError(TOO_OLD), warning=TOO_OLD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not cuda_available()


def test_all_that_open_a_model_refuse_alike(cuda):
    pytest.importorskip("transformers", reason="no transformers; type: pip install gradprobe[vlm]")
    from gradprobe.vlm.model import open_vlm
    from gradprobe.vlm.task import captioning

    cuda(count=1, capability=(7, 0))
    for opened in (
        lambda **where: load_backbone("test_vit", "none", **where), lambda **where: classification("scenes", **where),
        lambda **where: open_vlm("scenes-vlm", **where), lambda **where: captioning("scenes-vlm", **where),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=r"--device cuda:3 is not possible here .*one was found"):
            opened(device="cuda:3")
        with pytest.raises(UsageError, match=r"--dtype bfloat16 is not possible on cuda .*; give --dtype float"):
            opened(device="cuda", dtype="bfloat16")
    with pytest.raises(UsageError, match="give --dtype float16 or float32"):
        open_vlm("scenes-vlm", device="auto", dtype="bfloat16")


def test_a_model_that_does_not_fit_and_a_device_that_fails_are_two_things(monkeypatch):
    for error, words in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "test_vit does not fit in the free memory of cpu"),
        (
            RuntimeError("CUDA-capable device(s) is/are busy."),
            r"--device cpu .*\(CUDA-capable .* busy.\); give another",
        ),
    ):

        def to(*args, error=error, **options):
            raise error

        monkeypatch.setattr(torch.nn.Module, "to", to)
        with pytest.raises(Exception, match=words) as caught:
            load_backbone("test_vit", "none")
        assert isinstance(caught.value, UsageError) is ("busy" in words)


def test_free_memory_counts_what_torch_holds_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert devices.free_memory(torch.device("cuda", 0)) == 130
