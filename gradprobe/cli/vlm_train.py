"""``gradprobe vlm train``: train a pruner for a vision-language model, as DiffPrune does."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import completion, options
from gradprobe.cli.output import say, say_json
from gradprobe.errors import UsageError


def train(
    model: Annotated[str, typer.Option(help="photos-vlm or scenes-vlm (embedded), a hub id, or a folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the pruner, its card, the log and the checkpoint.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="captions.jsonl, a folder of images with captions, or a data set: FOLDER or user/name[:split]."
        ),
    ] = None,
    image_root: Annotated[str | None, typer.Option(help="What paths in a captions file are relative to.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Of a data set, where it is not plain.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Likewise; a text, or a list of them.")] = None,
    k: Annotated[int | None, typer.Option(help="Visual tokens kept of an image.")] = None,
    ratio: Annotated[float | None, typer.Option(help="The same as a share of each image's N, e.g. 0.111.")] = None,
    op: Annotated[
        str | None,
        typer.Option(help="Operator that is trained through; vpnoise by default.", autocompletion=completion.operators),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="diffprune, autoselect, diffprune-84m, small.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Its name and fields.")] = None,
    denoiser: Annotated[str | None, typer.Option(help="token, global or none.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; one epoch by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step; 32.")] = None,
    rows: Annotated[int | None, typer.Option(help="Images read at a time; lower it when memory is full.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the first step; falls to 0 by a cosine.")] = None,
    tau: Annotated[str | None, typer.Option(help="Temperature from:to by a cosine; own: as the operator says.")] = None,
    tau_steps: Annotated[int | None, typer.Option(help="Steps in which it falls; it is held afterwards.")] = None,
    validation: Annotated[int | None, typer.Option(help="Images held out for validation; 0: none.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Validations without a better loss that end it; 0: none.")
    ] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints, and validations.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of scorer, batches and noise.")] = None,
    generator: Annotated[str | None, typer.Option(help="Of noise: host, philox, or auto, by the device.")] = None,
    device: options.Device = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Of the model; float32 on a CPU, bfloat16 on a GPU.")] = None,
    track: Annotated[str | None, typer.Option(help="trackio, wandb or tensorboard, beside log.jsonl.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew; ignore the checkpoint in --out.")] = False,
    as_json: options.Json = False,
) -> None:
    """Train a scorer by the caption loss of a frozen model, through an operator; stopped, it goes on where it was."""
    from gradprobe.embedded.vlms import VLMS
    from gradprobe.vlm.training.presets import PRESETS
    from gradprobe.vlm.training.presets import preset as settings_of
    from gradprobe.vlm.training.tracking import check_tracker

    fields: dict[str, Any] = {
        "k": k, "ratio": ratio, "op": op, "scorer": scorer, "denoiser": denoiser, "steps": steps,
        "batch_size": batch_size, "learning_rate": learning_rate, "tau_steps": tau_steps, "validation": validation,
        "patience": patience, "save_every": save_every, "seed": seed, "generator": generator,
    }  # fmt: skip
    changes = {name: value for name, value in fields.items() if value is not None}
    if tau is not None:
        changes["tau_start"], changes["tau_end"] = options.temperatures(tau)
    name = preset or ("small" if model in VLMS else "diffprune")
    settings = settings_of(name, changes)
    if patience and not settings.validation:
        raise UsageError(f"--patience {patience} counts validations, and --validation 0 asks for none; leave one out")
    check_tracker(track)
    if data is None and model not in VLMS:
        from gradprobe.vlm.picture_source import check_captions

        check_captions(model, "--model")
    if data is None:
        for option, value in (
            ("image-root", image_root), ("image-column", image_column), ("caption-column", caption_column),
        ):  # fmt: skip
            if value is not None:
                raise UsageError(f"--{option} goes with --data captions.jsonl or a data set")

    from gradprobe.cli.progress import bars
    from gradprobe.vlm.caption_tables import check_data
    from gradprobe.vlm.captions import open_captions
    from gradprobe.vlm.model import open_vlm
    from gradprobe.vlm.picture_source import source_of
    from gradprobe.vlm.training.need import check_frozen
    from gradprobe.vlm.training.processes import process_group
    from gradprobe.vlm.training.train import Launch, fit

    if data is not None:
        check_data(data, image_root, image_column, caption_column)  # before a large model is opened
    with process_group(device) as processes, options.working_in(out, processes.main):
        dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
        check_frozen(model, dtype, processes.loading, processes.readers)
        vlm = open_vlm(model, device=processes.loading, dtype=dtype)
        source: Any
        if data is None:
            source = source_of(model, None, vlm)
        else:
            source = open_captions(
                data, image_root, held_out=validation, processor=vlm.processor, image_column=image_column,
                caption_column=caption_column,
            )  # fmt: skip
        if processes.main and not as_json:
            say(f"preset {name}: {PRESETS[name].description}")
            _print_data(source)
        with bars(quiet=not processes.main) as progress:
            command = shlex.join(["gradprobe", *sys.argv[1:]])
            launch = Launch(processes, track, command, None if as_json else say)
            result = fit(vlm, source, out, settings, rows=rows, restart=restart, progress=progress, launch=launch)
    if processes.main and as_json:
        from gradprobe.vlm.training.card import facts

        say_json({"probe": "vlm-train", "path": str(out), **facts(result)})
    elif processes.main:
        _print(result, settings.validation)


def _print_data(source: Any) -> None:
    if hasattr(source, "epoch"):
        say(f"{source.epoch:,} captions to train on, {source.size:,} held out")
        if source.skipped:
            say(f"passed over {source.n_skipped}: {'; '.join(source.skipped)}")


def _print(result: Any, validation: int) -> None:
    from rich.table import Table

    from gradprobe.cli.screen import Screen
    from gradprobe.vlm.training.card import budget_text, loss_rows
    from gradprobe.vlm.training.conclusion import beats_random, conclusion

    console = Screen()
    early = f" of {result.planned}, ended by validation" if result.steps < result.planned else ""
    console.print(f"{result.steps} steps{early}, scorer of step {result.step}; kept: {budget_text(result.config)}")
    if result.losses:
        table = Table("the model reads", "caption loss", title=f"{result.examples['held_out']} held-out captions")
        for text, loss in loss_rows(result):
            table.add_row(text, f"{loss:.4f}")
        console.print(table)
    else:
        console.print(f"no validation ({validation} examples held out); training loss {result.training_loss:.4f}")
    out = result.out
    lines = [conclusion(result)] if result.losses else []
    if beats_random(result) is False:
        lines.append(f"the files and the log of this training are in {out}")
    else:
        lines += [
            f"wrote {out / 'scorer.safetensors'}, scorer.json, README.md and log.jsonl",
            f'to use it: gradprobe vlm generate --pruner {out} --image x.jpg --prompt "..."',
            f'       or: gp.vlm.load("{out}").generate(inputs)',
        ]
    for line in lines:
        console.print(line, soft_wrap=True)
