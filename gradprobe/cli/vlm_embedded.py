"""``gradprobe vlm train-scenes`` and ``train-photos``: make the embedded vision-language models anew."""

from pathlib import Path
from typing import Annotated

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say
from gradprobe.embedded.vlms import PHOTOS_SIZES, SCENES
from gradprobe.errors import UsageError, nearest

Seed = Annotated[int, typer.Option(help="Of the initial weights and of the pictures seen.")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16, or auto: the faster one here.")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew; ignore the checkpoint in --out.")]
Out = Annotated[Path, typer.Option(help="Folder for the model, its card and the checkpoint.")]


def train_scenes(
    out: Out = Path("runs/scenes_vlm"), seed: Seed = 0, precision: Precision = "auto", restart: Restart = False
) -> None:
    """Train the embedded scenes-vlm from nothing (40 minutes on 2 cores); stopped, it goes on."""
    _train(SCENES, out, seed, precision, restart)


def train_photos(
    out: Out = Path("runs/photos_vlm"),
    size: Annotated[str, typer.Option(help="small, medium or large: 0.5, 1.6 or 5 million parameters.")] = "medium",
    seed: Seed = 0,
    precision: Precision = "auto",
    restart: Restart = False,
) -> None:
    """Train the embedded photos-vlm from nothing (medium: 50 minutes on 2 cores); stopped, it goes on."""
    if size not in PHOTOS_SIZES:
        raise UsageError(f"--size {size} is not possible; {nearest(size, PHOTOS_SIZES)}")
    _train(PHOTOS_SIZES[size], out, seed, precision, restart)


def _train(model: str, out: Path, seed: int, precision: str, restart: bool) -> None:
    from gradprobe.vlm.training.pictures import recipe_of
    from gradprobe.vlm.training.pictures_card import train_pictures

    with options.working_in(out):
        card = train_pictures(recipe_of(model, seed), out, resume=not restart, precision=precision)
    for rule, shares in card["accuracy"].items():
        accuracy = ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items())
        say(f"{rule}: {accuracy} of {card['held_out_pictures']} held-out pictures")
    say(f"wrote {out / 'model.safetensors'} and {out / 'card.json'}")
