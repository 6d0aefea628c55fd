"""Seconds of each probe over those of the bare encoder passes that it runs, on a DeiT-Base shape with random weights.

Beside the ratio stand the same passes in batches of 64, the share of the time that makes noise, and the arithmetic of
the encoder as a share of what a large bfloat16 matrix product reaches here.
"""

from collections.abc import Callable
from typing import Any

from gpu_steps.encoder_floor import BarePasses
from gpu_steps.machine import clear
from gpu_steps.noise_pictures import WatchedBackbone, noise_task
from gpu_steps.noise_time import noise_timed
from gpu_steps.report import Report
from gpu_steps.step import Setup, typed
from gpu_steps.timing import peak_flops, seconds
from gradprobe.operators.registry import build
from gradprobe.probes import probe_of
from gradprobe.probes.contract import Resources, Subject

OPERATOR, NOISE = "vpnoise", 0.03
FULL: dict[str, dict[str, Any]] = {
    "coherence": {"batches": 16, "batch_size": 16, "draws": 2},
    "retention": {"steps": 20, "batch_size": 32, "images": 128},
    "equivalence": {"images": 512},
    "landscape": {"grid": "41", "images": 32},
    "fidelity": {"images": 32, "draws": 32, "held_out": 64, "ladder": (0.01,), "noise_draws": 4},
    "curvature": {"images": 16, "batch_size": 16, "eigenvalues": 2, "samples": 4},
}
TINY: dict[str, dict[str, Any]] = {
    "coherence": {"batches": 3, "batch_size": 2, "draws": 2},
    "retention": {"steps": 2, "batch_size": 2, "images": 2},
    "equivalence": {"images": 2},
    "landscape": {"grid": "3", "images": 2},
    "fidelity": {"images": 3, "draws": 32, "held_out": 3, "sigmas": (1.0,), "ladder": (0.01,), "noise_draws": 3},
    "curvature": {"images": 2, "batch_size": 2, "eigenvalues": 1, "samples": 2, "tolerance": 0.5},
}
COARSE = ("curvature",)  # probes that refuse bfloat16


def settings(setup: Setup) -> dict[str, Any]:
    """Return model, precisions and sizes."""
    model = {"backbone": "test_vit", "pixels": 32} if setup.tiny else {"backbone": "deit_base_patch16_224"}
    k, side = (2, 512) if setup.tiny else (58, 8192)
    sizes = TINY if setup.tiny else FULL
    return {**model, "op": OPERATOR, "k": k, "dtypes": ("bfloat16", "float32"), "probes": sizes, "peak_side": side}


def measure(setup: Setup, settings: dict[str, Any], report: Report) -> None:
    """Measure the peak, then each probe in each precision: the first run warms up where there is time."""
    peak = peak_flops(setup.device, settings["peak_side"])
    report.line("bfloat16 peak", f"{peak / 1e12:.4g} TFLOP/s of a product of {settings['peak_side']} x the same")
    for dtype in settings["dtypes"]:
        task = noise_task(settings["backbone"], setup.device, dtype, settings.get("pixels"))
        for name, sizes in settings["probes"].items():
            if (dtype == "bfloat16" and name in COARSE) or report.has(probe=name, dtype=dtype):
                continue
            if not report.over(f"{name} in {dtype}"):
                values = _one(setup, task.with_new_scorer(0), name, typed(sizes), settings)
                share = values["flops"] / values["seconds"] / peak
                report.row({"probe": name, "dtype": dtype, **values, "peak_flops": peak, "peak_share": share})
                clear(setup.device)
    for row in report.rows:
        _line(report, row)


def _one(setup: Setup, task: Any, name: str, sizes: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Time a probe after a warm-up, and the bare passes of its calls."""
    backbone: WatchedBackbone = task.backbone
    probe, subject = probe_of(name), Subject(task, build(settings["op"]), settings["k"])
    resources = Resources(workers=1)

    def run() -> None:
        probe.part("measure")(subject, probe.settings(**sizes), resources)

    if setup.device == "cuda":
        run()
    backbone.counted()
    with noise_timed(setup.device) as noise:
        took = seconds(run, setup.device)
    calls = backbone.counted()
    floor = _bare(setup, backbone, name)(calls)
    shapes = [[c.images, c.tokens, c.graph, str(c.dtype).removeprefix("torch."), n] for c, n in calls.items()]
    return {
        "seconds": took, "floor_s": floor.seconds, "floor_large_s": floor.large, "over_floor": took / floor.seconds,
        "over_large": took / floor.large, "images": floor.images, "flops": floor.flops, "noise_host_s": noise.host,
        "noise_device_s": noise.device, "noise_calls": noise.calls, "noise_share": noise.seconds / took,
        "generator": task.generator, "calls": shapes,
    }  # fmt: skip


def _bare(setup: Setup, backbone: WatchedBackbone, name: str) -> Callable[..., Any]:
    return BarePasses(backbone, setup.device, name == "curvature", 2 if setup.tiny else 5).floor


def _line(report: Report, row: dict[str, Any]) -> None:
    text = (
        f"{row['over_floor']:.2f} x floor ({row['over_large']:.2f} x in large batches), {row['peak_share']:.1%} of peak"
    )
    report.line(
        f"{row['probe']}, {row['dtype']}",
        f"{text}, noise {row['noise_share']:.1%}",
        f"noise at most {NOISE:.0%}",
        row["noise_share"] <= NOISE,
    )
