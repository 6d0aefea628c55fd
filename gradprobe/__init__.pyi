"""Written by tests/stubs.py: the names of this package for type checkers and editors."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch.nn.modules.module import Module

from gradprobe import vlm as vlm
from gradprobe.advice.advice import Advice
from gradprobe.comparison.comparison import Comparison
from gradprobe.core import Batch as Batch
from gradprobe.core import Noise as Noise
from gradprobe.core import Operator as Operator
from gradprobe.core import Relaxation as Relaxation
from gradprobe.core import Selection as Selection
from gradprobe.core import SelectionOperator as SelectionOperator
from gradprobe.core import Task as Task
from gradprobe.core import Throttle as Throttle
from gradprobe.core import Tokens as Tokens
from gradprobe.errors import GradprobeError as GradprobeError
from gradprobe.errors import UsageError as UsageError
from gradprobe.landscapes.directions import filter_normalized as filter_normalized
from gradprobe.landscapes.directions import pca_directions as pca_directions
from gradprobe.landscapes.functional import functional_call as functional_call
from gradprobe.landscapes.planes import axis as axis
from gradprobe.landscapes.planes import from_metric as from_metric
from gradprobe.landscapes.planes import line as line
from gradprobe.landscapes.planes import plane as plane
from gradprobe.models.backbones import Backbone as Backbone
from gradprobe.models.deploy import prune as prune
from gradprobe.models.scorer_file import load_scorer as load_scorer
from gradprobe.operator_info import About as About
from gradprobe.operators.registry import build as build
from gradprobe.operators.softtopk import soft_topk as soft_topk
from gradprobe.probes.coherence.result import CoherenceResult
from gradprobe.probes.cost.result import CostResult
from gradprobe.probes.curvature.result import CurvatureResult
from gradprobe.probes.equivalence.result import EquivalenceResult
from gradprobe.probes.fidelity.reference_result import ReferenceResult
from gradprobe.probes.fidelity.result import FidelityResult
from gradprobe.probes.landscape.result import LandscapeResult
from gradprobe.probes.retention.measure import ranked as ranked
from gradprobe.probes.retention.result import RetentionResult
from gradprobe.selectors.plan import plan_of as plan_of
from gradprobe.store.results import Store as Store
from gradprobe.tasks import Classification
from gradprobe.testing import check_operator as check_operator
from gradprobe.testing import check_selector as check_selector
from gradprobe.training.train import Recipe as Recipe
from gradprobe.view import Kept as Kept
from gradprobe.view import Selector as Selector
from gradprobe.view import SelectorAbout as SelectorAbout
from gradprobe.view import Unavailable as Unavailable
from gradprobe.view import View as View

__all__ = [
    "About",
    "Backbone",
    "Batch",
    "GradprobeError",
    "Kept",
    "Noise",
    "Operator",
    "Recipe",
    "Relaxation",
    "Selection",
    "SelectionOperator",
    "Selector",
    "SelectorAbout",
    "Store",
    "Task",
    "Throttle",
    "Tokens",
    "Unavailable",
    "UsageError",
    "View",
    "advise",
    "axis",
    "build",
    "check_operator",
    "check_selector",
    "classification",
    "coherence",
    "compare",
    "cost",
    "curvature",
    "equivalence",
    "fidelity",
    "filter_normalized",
    "from_metric",
    "functional_call",
    "landscape",
    "line",
    "load_scorer",
    "pca_directions",
    "plan_of",
    "plane",
    "prune",
    "ranked",
    "reference",
    "retention",
    "soft_topk",
]
__version__: str

def advise(
    k: int | None = None,
    *,
    task: Task | str | None = None,
    backbone: str = "scenes",
    weights: str | None = None,
    data: str | None = None,
    train_data: str | None = None,
    scorer: str = "mlp",
    layer: int = 0,
    loss: str = "ce",
    device: str = "cpu",
    dtype: str = "float32",
    generator: str = "auto",
    weights_key: str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    class_order: str | None = None,
    keep: float | None = None,
    ops: SelectionOperator | str | type | Sequence[SelectionOperator | str | type] = (),
    budget: float = 900.0,
    seeds: Sequence[int] | None = None,
    steps: int = 100,
    batch_size: int = 16,
    confirm: bool = True,
    results: Path | str = "runs",
    workers: int | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Advice:
    """Advise on the operator to train for this model, these data and this number of tokens.

    Args:
        task: An open task, or the name of a vision-language model, instead of a backbone.
        backbone: ``scenes`` or a timm vision transformer.
        weights: A file, or ``none``; None: the backbone's own.
        data: Folder of images; None: the backbone's own.
        train_data: Folder that scorers are trained on; None: ``data``.
        scorer: ``mlp`` or ``transformer``, with fields.
        layer: Blocks before the insertion point.
        loss: ``ce`` or ``kl``.
        device: ``cpu``, ``cuda``, ...
        dtype: ``float32``, ``bfloat16`` or ``float64``.
        generator: Generator of noise: ``host``, ``philox``, or ``auto``.
        weights_key: Which of the models in a weights file; None: by timm's order.
        image_size: Pixels, or ``HxW``; None: that of the weights.
        class_order: Order of the class folders, ``text`` or ``natural``; None: not said.
        k: Tokens kept, 1..N-1; or ``keep`` instead.
        keep: Tokens kept as a share of N, in (0, 1).
        ops: Operators of your own, beside the registered ones.
        budget: Seconds that it may take.
        seeds: Seeds of the last trainings, all of them; None: as many of 1, 2, 3 as the budget allows.
        steps: Steps of a training of full length.
        batch_size: Images in a training step.
        confirm: Train the best candidates.
        results: Folder of the answers.
        workers: Threads; the numbers do not depend on it.
        jobs: Processes that share the questions; None: this one asks them all.
        cluster: Scheduler whose workers share the questions: ``dask://HOST:PORT``, ...
        progress: Called with (description, done, of how many).
    """

def classification(
    backbone: str | Module | Backbone = "scenes",
    *,
    weights: str | Path | None = None,
    data: str | Path | None = None,
    train_data: str | Path | None = None,
    layer: int = 0,
    loss: str = "ce",
    scorer: str = "mlp",
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    generator: str = "auto",
    denoiser: str = "none",
    weights_key: str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    class_order: str | None = None,
) -> Classification:
    """Open a task: a timm vision transformer or an embedded model, images, and a fresh scorer.

    Args:
        backbone: ``scenes``, a timm model name, or a model of one's own: a timm ``VisionTransformer``, or a `Backbone`,
            which needs ``data``, brings its weights, device and dtype, and is left as found.
        weights: A safetensors or .pth file, ``none`` for random ones, None for the hub's (or the embedded ones).
        data: A folder of images; None with ``scenes`` means its own scenes.
        train_data: Another folder, to train scorers on; None: the same.
        layer: Number of blocks before the insertion point.
        loss: ``ce`` or ``kl``.
        scorer: ``mlp`` or ``transformer``, with fields: ``mlp:width=512``.
        seed: Seed of the scorer, and of random weights.
        device: A torch device.
        dtype: ``float32``, ``float64``, or ``bfloat16`` (autocast around the frozen model).
        generator: Generator of noise: ``host``, ``philox``, made on the device, or ``auto``: philox on a GPU. Part of
            the question unless it is ``host``.
        denoiser: ``token``, ``global`` or ``none``: trained with a scorer, behind the operator.
        weights_key: Name of a model in the weights file; None: by timm's order. Part of the question only if given.
        image_size: Pixels, or ``HxW``; None: that of the weights. Part of the question only if given.
        class_order: Order of the class folders, ``text`` or ``natural``, where the two differ. Likewise.
    """

def coherence(
    task: Task,
    operator: SelectionOperator | str | type,
    k: int | None = None,
    *,
    keep: float | None = None,
    batches: int = 32,
    batch_size: int = 16,
    draws: int = 2,
    steps: int = 0,
    learning_rate: float = 0.0002,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> CoherenceResult:
    """Measure inner products of the scorer's gradients over batches and noise draws, theta fixed, raw and centred.

    Args:
        task: Frozen model, scorer and data; the scorer is trained in place where the settings ask for steps.
        operator: Operator that selects: itself, its name or its class.
        k: Tokens kept, 1..N; or ``keep`` instead.
        keep: Tokens kept as a share of N, in (0, 1].
        batches: Batches, at least 3.
        batch_size: Images in a batch.
        draws: Noise draws for each batch, at least 2.
        steps: Training steps of the scorer before the measurement: 0,100,500.
        learning_rate: Learning rate of that training.
        seed: Seed of the order of images, the noise, the scorer and the training.
        progress: Called with (description, done, of how many).
    """

def compare(
    ops: SelectionOperator | str | type | Sequence[SelectionOperator | str | type],
    k: int | None = None,
    *,
    keep: float | None = None,
    baselines: SelectionOperator | str | type | Sequence[SelectionOperator | str | type] = (
        "gumbel",
        "gumbel-softmax",
        "scale",
        "vpnoise",
    ),
    task: Task | str | None = None,
    backbone: str = "scenes",
    weights: str | None = None,
    data: str | None = None,
    train_data: str | None = None,
    scorer: str = "mlp",
    layer: int = 0,
    loss: str = "ce",
    seed: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
    generator: str = "auto",
    budget: float = 600.0,
    reserve: float = 0.0,
    size: str | None = None,
    results: Path | str = "runs",
    workers: int | None = None,
    force: bool = False,
    command: str = "",
    progress: Callable[[str, int, int], None] | None = None,
    weights_key: str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    class_order: str | None = None,
    seeds: Sequence[int] | None = None,
    select: Sequence[str] = (),
    jobs: int | None = None,
    cluster: str | None = None,
) -> Comparison:
    """Ask every probe of operators and baselines: coherence, a landscape line, fidelity, equivalence, retention, cost.

    Args:
        ops: One operator or several, each itself, its name or its class; all others are compared with the first.
        k: Tokens kept, 1..N; or ``keep`` instead.
        keep: Tokens kept as a share of N, in (0, 1].
        baselines: Operators to compare with; ``[]`` for none.
        task: An open task, or the name of a vision-language model, instead of a backbone.
        backbone: ``scenes`` or a timm vision transformer.
        weights: A file, or ``none``; None: the backbone's own.
        data: Folder of images; None: the backbone's own.
        train_data: Folder that retention trains on; None: ``data``.
        scorer: ``mlp`` or ``transformer``, with fields.
        layer: Blocks before the insertion point.
        loss: ``ce`` or ``kl``.
        seed: Seed of images, noise and scorer, and the first of the trainings.
        device: ``cpu``, ``cuda``, ...
        dtype: ``float32``, ``bfloat16`` or ``float64``.
        generator: Generator of noise: ``host``, ``philox``, or ``auto``.
        budget: Seconds; decides the size, by timing every operator first.
        reserve: Seconds of the budget kept for what comes before and after, such as a page.
        size: Name of a size in `SIZES`, instead of a budget.
        results: Folder of the answers.
        workers: Threads; the numbers, but for the cost, do not depend on it.
        force: Measure again what is stored.
        command: Command that the comparison says made it.
        progress: Called with (description, done, of how many).
        weights_key: Which of the models in a weights file; None: by timm's order.
        image_size: Pixels, or ``HxW``; None: that of the weights.
        class_order: Order of the class folders, ``text`` or ``natural``; None: not said.
        seeds: Seeds that every probe is asked with, but equivalence and cost, which have the first; instead of seed.
        select: Selectors and plans without training, such as ``fastv@2``, beside the usual rankings.
        jobs: Processes that answer questions at the same time; None: this one alone.
        cluster: Machines that answer: ``dask://HOST:PORT``, ``ray://HOST:PORT``, ``slurm``.
    """

def cost(
    task: Task,
    operator: SelectionOperator | str | type,
    k: int | None = None,
    *,
    keep: float | None = None,
    images: int = 8,
    rounds: int = 9,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> CostResult:
    """Measure FLOPs, seconds and saved bytes of a training gradient through an operator, beside the bare encoder's.

    Args:
        task: Frozen model, scorer and data; the scorer is trained in place where the settings ask for steps.
        operator: Operator that selects: itself, its name or its class.
        k: Tokens kept, 1..N; or ``keep`` instead.
        keep: Tokens kept as a share of N, in (0, 1].
        images: Images in the one group that is measured.
        rounds: Rounds in which everything is timed, at least 6.
        seed: Seed of images and noise.
        progress: Called with (description, done, of how many).
    """

def curvature(
    task: Task,
    operator: SelectionOperator | str | type,
    k: int | None = None,
    *,
    keep: float | None = None,
    eigenvalues: int = 5,
    images: int = 32,
    batch_size: int = 16,
    samples: int = 16,
    tolerance: float = 0.001,
    steps: int = 0,
    learning_rate: float = 0.0002,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> CurvatureResult:
    """Measure the largest eigenvalues and the trace of the Hessian of the mean loss in the scorer's parameters.

    Args:
        task: Frozen model, scorer and data; the scorer is trained in place where the settings ask for steps.
        operator: Operator that selects: itself, its name or its class.
        k: Tokens kept, 1..N; or ``keep`` instead.
        keep: Tokens kept as a share of N, in (0, 1].
        eigenvalues: Number of eigenvalues, those of largest magnitude.
        images: Images in the loss; a multiple of the batch size if larger.
        batch_size: Images differentiated at once, and in a batch of training.
        samples: Random vectors for the trace, at least 2.
        tolerance: Largest residual of an eigenvalue, in (0, 1).
        steps: Training steps of the scorer before the measurement.
        learning_rate: Learning rate of that training.
        seed: Seed of the order of images, noise, training and random vectors.
        progress: Called with (description, done, of how many).
    """

def equivalence(
    task: Task,
    operator: SelectionOperator | str | type,
    k: int | None = None,
    *,
    keep: float | None = None,
    images: int = 512,
    seed: int = 0,
    scores: str = "random",
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> EquivalenceResult:
    """Rank the right class of each image when an operator keeps K of N tokens by scores that are pure noise.

    Args:
        task: Frozen model, scorer and data; the scorer is trained in place where the settings ask for steps.
        operator: Operator that selects: itself, its name or its class.
        k: Tokens kept, 1..N; or ``keep`` instead.
        keep: Tokens kept as a share of N, in (0, 1].
        images: Images.
        seed: Seed of the order of images, the scores and the operator's noise.
        scores: Scores: random, or a selector that needs no language model, e.g. divprune.
        workers: Threads, each running torch on one; the numbers do not depend on it. None: as many as torch has.
        progress: Called with (description, done, of how many).
    """

def fidelity(
    task: Task,
    operator: SelectionOperator | str | type,
    reference: ReferenceResult | None = None,
    *,
    k: int | None = None,
    keep: float | None = None,
    noise_draws: int = 8,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> FidelityResult:
    """Compare an operator's mean gradient with that of the smoothed deployed objective, and step along it.

    Args:
        task: Frozen model, scorer and data; the scorer is trained in place where the settings ask for steps.
        operator: Operator that selects: itself, its name or its class.
        k: Tokens kept, 1..N-1, where no reference is given.
        keep: Tokens kept as a share of N, in (0, 1), where no reference is given.
        noise_draws: Draws of the operator's own noise, at least 3.
        workers: Threads, each running torch on one; the numbers do not depend on it. None: as many as torch has.
        progress: Called with (description, done, of how many).
        reference: Reference of the same task, as `gradprobe.reference` makes it: it decides K, the images, the sigmas
            and the steps, and several operators share it. None: one of its default settings is made, for ``k`` or
            ``keep``.
    """

def landscape(
    task: Task,
    operator: SelectionOperator | str | type,
    k: int | None = None,
    *,
    keep: float | None = None,
    grid: str = "31x31",
    reach: float | None = None,
    noise: str = "common",
    axes: str = "random",
    one_d: str = "zero",
    params: str = "*",
    images: int = 32,
    checkpoints: Sequence[int | str | Path] = (),
    steps: int = 0,
    learning_rate: float = 0.0002,
    batch_size: int = 16,
    seed: int = 0,
    folder: Path | str | None = None,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> LandscapeResult:
    """Measure the loss of every image at ``theta + a_i d1 + b_j d2``, for every cell of a grid.

    Args:
        task: Frozen model, scorer and data; the scorer is trained in place where the settings ask for steps.
        operator: Operator that selects: itself, its name or its class.
        k: Tokens kept, 1..N; or ``keep`` instead.
        keep: Tokens kept as a share of N, in (0, 1].
        grid: Rows along d1 x columns along d2, ``61x31``; ``81`` is a line of 81 points along d2.
        reach: Half the width in filter units; 0.3 by default. Random axes only.
        noise: common: the same in all cells; fresh: its own in each.
        axes: random (filter-normalised), pca (of the training trajectory of ``steps``) or checkpoints.
        one_d: Biases and norm layers: zero (stay), vector or element. Random axes only.
        params: Parameters of the scorer that move: a pattern, e.g. 'hidden.*'. Random axes only.
        images: Number of images.
        checkpoints: A, B and for a plane C: files of the scorer's parameters, or numbers of training steps.
        steps: Training steps of the scorer before the measurement.
        learning_rate: Learning rate of that training.
        batch_size: Images in a batch of that training.
        seed: Seed of images, noise, scorer, directions and training.
        folder: Folder for finished pieces, so that a killed run goes on from them; the caller's to remove.
        workers: Threads, each running torch on one; the numbers do not depend on it. None: as many as torch has.
        progress: Called with (description, done, of how many).
    """

def reference(
    task: Task,
    k: int | None = None,
    *,
    keep: float | None = None,
    sigmas: Sequence[float] = (0.1, 0.3, 1.0),
    draws: int = 128,
    images: int = 64,
    held_out: int = 256,
    ladder: Sequence[float] = (0.0001, 0.0003, 0.001, 0.003, 0.01),
    scores: str = "scorer",
    seed: int = 0,
    workers: int | None = None,
    folder: Path | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    start: ReferenceResult | None = None,
) -> ReferenceResult:
    """Estimate ``grad J_sigma(s) = Cov_z(J(s + sigma z), z) / sigma`` image by image, forward passes of K tokens only.

    Args:
        task: Frozen model, scorer and data; the scorer is trained in place where the settings ask for steps.
        k: Tokens kept, 1..N; or ``keep`` instead.
        keep: Tokens kept as a share of N, in (0, 1].
        sigmas: Smoothing in units of the scores, several: 0.1,0.3,1.
        draws: Antithetic pairs for each image, a multiple of 32.
        images: Images whose gradients are compared.
        held_out: Other images, on which steps are tried.
        ladder: Steps relative to the norm of the parameters.
        scores: scorer, or random: Gaussian ones, nothing in parameters.
        seed: Seed of the order of images and of the noise.
        workers: Threads, each running torch on one; the numbers do not depend on it. None: as many as torch has.
        folder: Folder for finished pieces, so that a killed run goes on from them; the caller's to remove.
        progress: Called with (description, done, of how many).
        start: Answer to the same question with fewer draws; only what it lacks is drawn.
    """

def retention(
    task: Task,
    operator: SelectionOperator | str | type,
    k: int | None = None,
    *,
    keep: float | None = None,
    recipe: Recipe | None = None,
    images: int = 1000,
    workers: int | None = None,
    folder: Path | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> RetentionResult:
    """Train a scorer through an operator and measure its accuracy with K deployed tokens over the unpruned model's.

    Args:
        task: Frozen model, scorer and data; the scorer is trained in place where the settings ask for steps.
        operator: Operator that selects: itself, its name or its class.
        k: Tokens kept, 1..N; or ``keep`` instead.
        keep: Tokens kept as a share of N, in (0, 1].
        recipe: Recipe of the training; its seed also orders the test images. None: 100 steps, as on the command line.
        images: Test images.
        workers: Threads, each running torch on one; the numbers do not depend on it. None: as many as torch has.
        folder: Folder for finished pieces, so that a killed run goes on from them; the caller's to remove.
        progress: Called with (description, done, of how many).
    """
