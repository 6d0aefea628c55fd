"""A vision-language model that reads only the visual tokens that selectors keep."""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.core import Noise, Stream
from gradprobe.errors import UsageError
from gradprobe.models.scored import Scored
from gradprobe.selectors.plan import Counts, Plan, plan_of
from gradprobe.view import Drop, Kept
from gradprobe.vlm.budgets import Budget
from gradprobe.vlm.choosing import Images, by_row
from gradprobe.vlm.inside import dropping
from gradprobe.vlm.model import VLM
from gradprobe.vlm.prompts import Sequence
from gradprobe.vlm.sequence import assemble, compact


@dataclass(frozen=True)
class Pruner:
    """Vision-language model that reads the visual tokens which selectors keep, and nothing of the others.

    Kept tokens stay in their order at their original position ids, unless the plan says otherwise; each image has its
    own budget, which the images of a row share where tokens are dropped inside the language model; a prompt without
    images is read as it is. All methods run without gradient. A prompt that ends in an image goes on after the last
    token kept; a language model with a sliding window counts kept tokens only.

    Attributes:
        vlm: The model.
        selector: A trained scorer (tokens ``(B, N, D)`` -> scores ``(B, N)``), a selector, or a plan or its text, such
            as ``fastv@2``.
        budget: K, or its share of N; None where the plan says it itself.
        metadata: Content of its ``scorer.json``; empty for one that was made by hand.

    Raises:
        UsageError: The model is no `VLM`, the selector none that is known, or the budget no `Budget`.

    Source: DiffPrune, section 4.1 (Eq. 3 at inference: throttler and denoiser are left out).
    """

    vlm: VLM
    selector: Any
    budget: Budget | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vlm, budget, given = (getattr(self, name) for name in ("vlm", "budget", "selector"))  # perhaps of other types
        if not isinstance(vlm, VLM):
            raise UsageError(f"a {type(vlm).__name__} is no VLM; give gp.vlm.VLM.of(model, processor)")
        if budget is not None and not isinstance(budget, Budget):
            raise UsageError(f"{budget!r} is no budget; give gp.vlm.Budget(k=64), or Budget(ratio=0.111)")
        if isinstance(given, str | Path | nn.Module):
            made = Scored(given) if isinstance(given, nn.Module) else plan_of(given)
            object.__setattr__(self, "selector", made)

    @classmethod
    def from_pretrained(
        cls,
        name: Path | str,
        model: Any = None,
        *,
        revision: str | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        trust: Collection[Path | str] = (),
    ) -> "Pruner":
        """Load a pruner from a folder or from the hub, with its model; `gradprobe.vlm.load` under another name.

        Args:
            name: Folder, or id of a repository, ``user/name``, whose files are fetched once.
            model: A `VLM`, a Hugging Face model, a hub id or a folder; None: the model that it was made for.
            revision: Branch, tag or commit of the repository; None: its main branch.
            device: Device on which a model given by name is opened.
            dtype: Type of such a model; None: ``float32`` on a CPU, ``bfloat16`` elsewhere.
            trust: Python files that its files may name and that may run.

        Raises:
            UsageError: There is no such folder, repository or revision, no pruner in it, or one of another model.
            GradprobeError: Its files, or the model, cannot be read or fetched.
        """
        from gradprobe.vlm.deploy import load

        return load(name, model, device, dtype, trust, revision)

    def save_pretrained(self, folder: Path | str, *, license: str = "apache-2.0") -> Path:
        """Write the pruner into a folder, which is made if need be: its scorer or its plan, its budget and a card.

        A ``README.md`` that somebody wrote or changed stays; a `Notice` says so where another pruner was described.

        Args:
            folder: Folder to write to.
            license: Licence for the card, as the hub spells it.

        Raises:
            UsageError: A selector that has no name, a scorer that its name does not make, no budget, or a folder with
                another pruner.
            GradprobeError: The folder cannot be written.
        """
        from gradprobe.vlm.pruner_files import save_pruner

        return save_pruner(self, folder, licence=license)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        branch: str | None = None,
        token: str | None = None,
        commit_message: str = "Push pruner with gradprobe",
        license: str = "apache-2.0",
    ) -> str:
        """Upload what `save_pretrained` writes to a repository on the hub, in one commit.

        Args:
            repo_id: ``user/name``; made if it is not there.
            private: Whether a repository that is made is private; None: as the user's settings say.
            branch: Branch, made if it is not there; None: the main one.
            token: Token that may write; None: ``HF_TOKEN``, or that of ``hf auth login``.
            commit_message: First line of the commit's message.
            license: Licence for the card, as the hub spells it.

        Returns:
            Address of the commit.

        Raises:
            UsageError: As `save_pretrained`; or an id that cannot be, no token or one that may not write, or a public
                repository where a private one is asked for.
            GradprobeError: The hub cannot be reached, or refuses the files.
        """
        from gradprobe.vlm.hub import push
        from gradprobe.vlm.pruner_files import save_pruner

        with TemporaryDirectory() as folder:
            saved = save_pruner(self, folder, repo_id, license)
            return push(saved, repo_id, private=private, branch=branch, token=token, message=commit_message)

    @property
    def plan(self) -> Plan:
        """The selector as a plan."""
        return plan_of(self.selector)

    @property
    def scorer(self) -> nn.Module | None:
        """The trained scorer; None where other selectors choose."""
        return next((stage.scorer for stage in self.scored if stage.scorer is not None), None)

    @property
    def scored(self) -> list[Scored]:
        """The stages of a trained scorer."""
        return [stage.selector for stage in self.plan.stages if isinstance(stage.selector, Scored)]

    @property
    def layers(self) -> int:
        """Number of layers of the language model."""
        return int(self.vlm.model.config.get_text_config().num_hidden_layers)

    def counts(self, n: int) -> Counts:
        """Return the tokens that each layer reads of an image of ``n`` tokens."""
        if self.budget is None:
            return self.plan.counts(n, self.layers)
        return self.budget.counts(self.plan, n, self.layers)

    def kept(self, inputs: Mapping[str, Any]) -> list[list[Tensor]]:
        """Return the tokens that enter the language model: of each row, of each image, ascending indices ``(K_i,)``."""
        images = self._images(inputs)
        kept = iter(self._chosen(images))
        return [[next(kept).index for _ in counts] for counts in images.prompt.counts]

    def sequence(self, inputs: Mapping[str, Any], pad: str = "left") -> Sequence:
        """Return the input of the language model: text, newlines and the tokens kept.

        Args:
            inputs: As the model's processor returns them; rows may be padded on either side.
            pad: Side on which shorter rows are padded afterwards; ``left`` to generate.
        """
        return self._assembled(self._images(inputs), pad)

    def left(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Return the visual tokens left behind the last stage: of each row, ascending numbers ``(K,)`` in the row.

        Images of a row are numbered on. Where tokens are dropped inside the language model, it reads the prompt.
        """
        images = self._images(inputs)
        kept = self._chosen(images)
        numbers = by_row(images.prompt, kept, images.features.tokens)[1]
        if not self._drops(images):
            return numbers
        sequence = self._joined(images, kept, "left")
        with torch.no_grad(), self._dropping(images, sequence) as dropped:
            self.vlm.logits(sequence)
        return list(dropped.kept[-1])

    def logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return next-token logits at the positions kept ``(B, S', V)``, rows padded on the left."""
        images = self._images(inputs)
        sequence = self._assembled(images, "left")
        with torch.no_grad(), self._dropping(images, sequence):
            return self.vlm.logits(sequence)

    def generate(
        self, inputs: Mapping[str, Any], *, max_new_tokens: int = 64, options: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Continue each row; the result begins with ``input_ids``, as that of the unpruned model does.

        Args:
            inputs: As the model's processor returns them.
            max_new_tokens: Largest number of new tokens.
            options: Options of the model's own ``generate``, such as ``{"do_sample": False}``.

        Returns:
            Token ids ``(B, S + new)``.

        Raises:
            UsageError: An option that would change what is read or returned, or rows with different numbers of tokens
                where the plan drops some inside the language model.
        """
        options = {"use_cache": True, **(options or {})}
        if "max_new_tokens" in options:
            raise UsageError(
                "max_new_tokens is no option here; give it as an argument: generate(inputs, max_new_tokens=8)"
            )
        made = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", *self.vlm.family.inputs)
        if given := [name for name in made if name in options]:
            raise UsageError(f"{given[0]} is no option here: it is made of the inputs; leave it out")
        if not options["use_cache"]:  # without a cache it drops a mask of ones, and takes gaps for packed sequences
            raise UsageError("use_cache=False is not possible with pruned tokens; leave it out")
        if options.get("return_dict_in_generate"):
            raise UsageError("return_dict_in_generate is not possible here; leave it out: token ids are returned")
        images = self._images(inputs)
        sequence = self._assembled(images, "left")
        with torch.no_grad(), self.vlm.running(), self.vlm.reading(sequence), self._dropping(images, sequence):
            new = self.vlm.model.generate(
                inputs_embeds=sequence.embeds,
                attention_mask=sequence.attention_mask,
                position_ids=sequence.positions,
                max_new_tokens=max_new_tokens,
                **options,
            )
        ids = torch.as_tensor(inputs["input_ids"], device=new.device)
        return torch.cat([ids.repeat_interleave(len(new) // len(ids), 0), new], 1)

    def _images(self, inputs: Mapping[str, Any]) -> Images:
        stage = self.plan.outside
        return Images.of(self.vlm, inputs, stage is not None and not isinstance(stage.selector, Scored))

    def _chosen(self, images: Images) -> list[Kept]:
        if (stage := self.plan.outside) is None:
            return images.whole()
        return images.chosen(stage.selector, lambda n: self.counts(n).outside)

    def _assembled(self, images: Images, pad: str) -> Sequence:
        return self._joined(images, self._chosen(images), pad)

    def _joined(self, images: Images, kept: list[Kept], pad: str) -> Sequence:
        tokens, index = by_row(images.prompt, kept, images.features.tokens)
        with torch.no_grad():
            sequence = assemble(self.vlm, images.prompt, tokens, index, pad)
        return compact(sequence) if self.plan.positions == "compact" else sequence

    def _drops(self, images: Images) -> list[Drop]:
        """Return the layers at which tokens are dropped.

        Raises:
            UsageError: Rows with different numbers of visual tokens.
        """
        stages = self.plan.inside
        if not stages or not any(images.prompt.counts):
            return []
        left = {tuple(sum(k) for k in zip(*self._left(row), strict=True)) for row in images.prompt.counts}
        if len(left) > 1:
            raise UsageError(
                "rows with different numbers of visual tokens cannot drop them together inside the language model; "
                "give one row at a time"
            )
        (numbers,) = left
        layers = [layer for layer, _ in self.counts(images.prompt.counts[0][0]).inside]
        return [Drop(*each) for each in zip(layers, (stage.selector for stage in stages), numbers, strict=True)]

    def _left(self, row: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return for each image of a row the tokens that each stage leaves."""
        return [tuple(k for _, k in self.counts(n).inside) for n in row]

    def _dropping(self, images: Images, sequence: Sequence) -> AbstractContextManager[Any]:
        if not (drops := self._drops(images)):
            return nullcontext()
        rows, length = sequence.attention_mask.shape
        last = torch.full((rows,), length - 1, device=sequence.embeds.device)  # padded on the left
        noise = Noise(0, range(rows)).stream(Stream.RANKING)
        slot, mask = sequence.slot, sequence.attention_mask
        return dropping(self.vlm, slot, mask, last, drops, noise, self.plan.positions)
