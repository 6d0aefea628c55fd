"""The ten benchmarks of the paper's Tables 1 to 3: the parts of their scores, and their published files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradprobe.errors import UsageError, nearest
from gradprobe.statistics.summed import Formula, category_sum, f1, share

Parts = Callable[[Mapping[str, Any]], tuple[float, ...]]  # a graded sample of lmms-eval -> its numbers
MME_CATEGORIES = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    """Benchmark that lmms-eval scores.

    Attributes:
        name: As typed.
        column: Its name in the paper's tables.
        metrics: Metrics of lmms-eval whose sum is the score.
        formula: Score of the sums of `parts`.
        parts: Numbers of one graded sample; None: of a group of samples (`gradprobe.vlm.evaluation.groups`).
        expects: Published files that are converted, for help and errors.
        scale: Factor from the formula's score to the one that is shown: 100 for percent.
        reported: Factor from lmms-eval's score to the one that is shown.
    """

    name: str
    column: str
    metrics: tuple[str, ...]
    formula: Formula
    parts: Parts | None
    expects: str
    scale: float = 100.0
    reported: float = 100.0

    @property
    def task(self) -> str:
        """Name of its task in lmms-eval, the name of a YAML file of `gradprobe.vlm.evaluation.tasks`."""
        return f"gradprobe_{self.name}"


def _exact_match(sample: Mapping[str, Any]) -> tuple[float, ...]:
    return float(sample["exact_match"]), 1.0


def _seed(sample: Mapping[str, Any]) -> tuple[float, ...]:
    graded = sample["seed_image"]
    return float(graded["pred"].lower().strip() == graded["answer"].lower().strip()), 1.0


def _pope(sample: Mapping[str, Any]) -> tuple[float, ...]:
    """Return true positive, false positive, false negative; an answer that is neither yes nor no is none of them."""
    graded = sample["pope_f1_score"]
    pair = graded["ground_truth"], graded["prediction"]
    return float(pair == ("yes", "yes")), float(pair == ("no", "yes")), float(pair == ("yes", "no"))


EXACT = ("exact_match",)
BENCHMARKS = {
    each.name: each
    for each in (
        Benchmark("gqa", "GQA", EXACT, share, _exact_match, "testdev_balanced_questions.json and images/<id>.jpg"),
        Benchmark(
            "mmbench_en", "MMB", ("gpt_eval_score",), share, None,
            "MMBench_DEV_EN.tsv (or mmbench_dev_20230712.tsv), pictures in base64", reported=1.0,
        ),
        Benchmark(
            "mmbench_cn", "MMB-CN", ("gpt_eval_score",), share, None,
            "MMBench_DEV_CN.tsv (or mmbench_dev_cn_20231003.tsv), pictures in base64", reported=1.0,
        ),
        Benchmark(
            "mme", "MME", ("mme_perception_score", "mme_cognition_score"), category_sum, None,
            "a folder a category (existence/, OCR/, ...) with <name>.txt, two lines of question, tab, Yes or No, and "
            "<name>.jpg or .png beside it, or both below questions_answers_YN/ and images/", scale=1.0, reported=1.0,
        ),
        Benchmark(
            "pope", "POPE", ("pope_f1_score",), f1, _pope,
            "coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json and val2014/COCO_val2014_*.jpg",
        ),
        Benchmark(
            "scienceqa_img", "SQA", EXACT, share, _exact_match,
            "problems.json, pid_splits.json and test/<id>/image.png",
        ),
        Benchmark(
            "vqav2", "VQAv2", EXACT, share, _exact_match,
            "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json and "
            "val2014/COCO_val2014_*.jpg",
        ),
        Benchmark("textvqa", "TextVQA", EXACT, share, _exact_match, "TextVQA_0.5.1_val.json and train_images/<id>.jpg"),
        Benchmark(
            "seedbench_img", "SEED", ("seed_image",), share, _seed, "SEED-Bench.json and SEED-Bench-image/<data_id>",
        ),
        Benchmark("vizwiz", "VizWiz", EXACT, share, _exact_match, "val.json and val/VizWiz_val_*.jpg"),
    )
}  # fmt: skip


def benchmark_of(name: str, option: str = "") -> Benchmark:
    """Return the benchmark of a name.

    Raises:
        UsageError: There is none; the message has the nearest.

    Example:
        >>> benchmark_of("pope").column
        'POPE'
    """
    if name not in BENCHMARKS:
        raise UsageError(f"{option and option + ': '}no benchmark is called {name!r}: {nearest(name, BENCHMARKS)}")
    return BENCHMARKS[name]


def benchmarks_of(text: str) -> tuple[Benchmark, ...]:
    """Return the benchmarks of names separated by commas, each once; ``all`` for all ten.

    Raises:
        UsageError: A name that is none.

    Example:
        >>> [each.name for each in benchmarks_of("gqa, pope,gqa")], len(benchmarks_of("all"))
        (['gqa', 'pope'], 10)
    """
    if text.strip() == "all":
        return tuple(BENCHMARKS.values())
    return tuple(benchmark_of(name, "--tasks") for name in dict.fromkeys(part.strip() for part in text.split(",")))
