"""The model ``gradprobe_vlm`` of lmms-eval. Importing this module imports lmms-eval; nothing of gradprobe does so."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.api.model import lmms

from gradprobe.errors import UsageError
from gradprobe.vlm.evaluation.arguments import ModelArguments
from gradprobe.vlm.evaluation.generation import Answering, Request
from gradprobe.vlm.evaluation.log import Log

GENERATION = "take a task whose output_type is generate_until"


class GradprobeVLM(lmms):
    """Vision-language model that reads all visual tokens, or those that a pruner or a plan keeps."""

    is_simple = True

    def __init__(self, answering: Answering, log: Log | None = None) -> None:
        super().__init__()
        self.answering, self.log = answering, log or Log()

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str | Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "GradprobeVLM":
        """Return the model of ``--model_args``: pretrained=, plan= or pruner=, k=, ..., see `ModelArguments`."""
        return cls(ModelArguments.of(arg_string, additional_config).opened())

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer the requests of lmms-eval, in their order."""
        made = [self._request(*request.args) for request in requests]
        return self.log.answered(self.answering, made)

    def _request(
        self, context: str, options: Mapping[str, Any], to_visual: Any, doc_id: int, task: str, split: str
    ) -> Request:
        def images() -> Sequence[Any]:
            return to_visual(self.task_dict[task][split][doc_id]) or []

        return Request(context, images, options)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refuse likelihoods of given answers: selectors that read the prompt would read the answer with it."""
        raise UsageError(f"gradprobe_vlm generates, and gives no likelihood of answers (multiple_choice); {GENERATION}")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse conversations of several rounds."""
        raise UsageError(f"gradprobe_vlm answers in one round; {GENERATION}")
