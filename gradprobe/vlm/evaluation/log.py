"""Answers of an evaluation that is under way: batches that are done are read back and not asked again."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from gradprobe.errors import GradprobeError
from gradprobe.store.chunk_log import open_chunk_log
from gradprobe.vlm.evaluation.generation import Answering, Request


@dataclass(frozen=True)
class Log:
    """Log of the answers to one question.

    Attributes:
        folder: Folder of unfinished work; None: nothing is kept.
        question: What the answers are to; a log of other answers is not read.
        progress: Called with (answered, of how many).
    """

    folder: Path | None = None
    question: dict[str, Any] = field(default_factory=dict)
    progress: Callable[[int, int], None] = lambda done, total: None

    def answered(self, answering: Answering, requests: Sequence[Request]) -> list[str]:
        """Return the answer to each request.

        Raises:
            GradprobeError: A sample cannot be read; the message has its number.
        """
        if self.folder is None:
            return self._all(answering, requests, {}, lambda number, chunk: None)
        with open_chunk_log(self.folder, self.question) as log:
            return self._all(answering, requests, log.chunks, log.append)

    def _all(
        self, answering: Answering, requests: Sequence[Request], chunks: dict[int, bytes],
        append: Callable[[int, bytes], None],
    ) -> list[str]:  # fmt: skip
        texts: list[str] = []
        for number, batch in enumerate(answering.batches(requests)):
            self.progress(len(texts), len(requests))
            if (done := chunks.get(number)) is None:
                done = json.dumps(_of_batch(answering, batch, len(texts))).encode()
                append(number, done)
            texts += json.loads(done)
        self.progress(len(texts), len(requests))
        return texts


def _of_batch(answering: Answering, batch: Sequence[Request], start: int) -> list[str]:
    opened = []
    for number, request in enumerate(batch):
        try:
            opened.append(replace(request, images=partial(tuple, request.images())))
        except (OSError, ValueError, SyntaxError) as error:  # those of Pillow
            raise GradprobeError(
                f"the picture of sample {start + number} cannot be read ({error}); prepare the benchmark again"
            ) from None
    return answering.answered(opened)
