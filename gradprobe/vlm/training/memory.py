"""Memory of a pruner's training: images that the language model reads at a time, and advice where they do not fit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gradprobe.core import Batch
from gradprobe.errors import GradprobeError, out_of_memory
from gradprobe.training.checkpoint import NAME
from gradprobe.training.memory import OutOfMemory, rows_for, training_rows
from gradprobe.vlm.model import VLM

# Measured on Llama layers: bytes that a frozen layer keeps for backward, for each channel of a token, by the bytes of a
# parameter; in two of them norms still compute in float32.
LAYER_BYTES = {2: 34, 4: 58}
WORD_BYTES = 12  # for each word of the vocabulary: logits, their float32 copy, and its gradient


def rows_of(vlm: VLM, parts: Sequence[Batch]) -> int:
    """Return the images that the language model reads at a time: 8 or more on a CPU, on a GPU an estimate of what fits.

    Args:
        vlm: Model, on its device.
        parts: A batch of the training, for the length of its sequences.
    """
    if vlm.device.type == "cpu":
        return min(training_rows(part.tokens.patches) for part in parts)
    text, weight = vlm.model.config.get_text_config(), next(vlm.model.parameters())
    layers = LAYER_BYTES.get(weight.itemsize, 58) * text.hidden_size * text.num_hidden_layers
    length = max(part.target.caption.prompt.input_ids.shape[1] for part in parts)
    return rows_for(vlm.device, length, layers + WORD_BYTES * text.vocab_size)


@contextmanager
def memory_advice(rows: int | None, batch_size: int, out: Path, lockstep: bool = False) -> Iterator[None]:
    """Turn errors of a full memory into advice on what to lower.

    Args:
        rows: Images at a time; None: they are not the trouble.
        batch_size: Images of a step.
        out: Folder of the checkpoint.
        lockstep: Whether images at a time stay as many where memory is full: processes share the frozen model.

    Raises:
        GradprobeError: Memory was full.
    """
    try:
        yield
    except (RuntimeError, MemoryError, GradprobeError) as error:
        if not isinstance(error, OutOfMemory) and not out_of_memory(error):
            raise
        single = rows in (None, 1) or (isinstance(error, OutOfMemory) and not lockstep)
        lower = [] if single else [f"--rows (below {rows})"]
        lower += [f"--batch-size (below {batch_size})"] if batch_size > 1 else []
        remedies = [*([f"lower {', then '.join(lower)}"] if lower else []), "give --dtype bfloat16"]
        stays = "; the last checkpoint stays" if (out / NAME).exists() else ""
        images = "one image" if single else f"{rows} images"
        raise GradprobeError(f"out of memory with {images} at a time: {', or '.join(remedies)}{stays}") from None
