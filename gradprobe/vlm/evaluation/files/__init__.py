"""The published files of each benchmark, a reader each; nothing here needs torch, lmms-eval or datasets."""

from collections.abc import Callable, Mapping
from pathlib import Path

from gradprobe.vlm.evaluation.files import choices, gqa, mmbench, open_answers, yes_no
from gradprobe.vlm.evaluation.files.source import Document

Reader = Callable[[Path], list[Document]]
READERS: Mapping[str, tuple[Reader, Mapping[str, str]]] = {  # name -> reader, kinds of its fields
    "gqa": (gqa.gqa, gqa.FIELDS),
    "mmbench_en": (mmbench.english, mmbench.FIELDS),
    "mmbench_cn": (mmbench.chinese, mmbench.FIELDS),
    "mme": (yes_no.mme, yes_no.FIELDS),
    "pope": (yes_no.pope, yes_no.FIELDS),
    "scienceqa_img": (choices.scienceqa_img, choices.SCIENCEQA_FIELDS),
    "vqav2": (open_answers.vqav2, open_answers.VQAV2_FIELDS),
    "textvqa": (open_answers.textvqa, open_answers.TEXTVQA_FIELDS),
    "seedbench_img": (choices.seedbench_img, choices.SEEDBENCH_FIELDS),
    "vizwiz": (open_answers.vizwiz, open_answers.VIZWIZ_FIELDS),
}
