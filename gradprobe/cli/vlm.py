"""``gradprobe vlm``: vision-language models, a command a file."""

import typer

from gradprobe.cli.options import checked
from gradprobe.cli.vlm_benchmark import benchmark
from gradprobe.cli.vlm_cost import cost
from gradprobe.cli.vlm_embedded import train_photos, train_scenes
from gradprobe.cli.vlm_evaluate import evaluate
from gradprobe.cli.vlm_generate import generate
from gradprobe.cli.vlm_gradient import search_gradient
from gradprobe.cli.vlm_push import push
from gradprobe.cli.vlm_search import search
from gradprobe.cli.vlm_show import show
from gradprobe.cli.vlm_train import train

vlm = typer.Typer(
    name="vlm",
    help="Train, deploy, show, count and evaluate pruners of vision-language models, and search schedules of tokens.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
vlm.command()(checked(train))
vlm.command()(checked(generate))
vlm.command()(checked(show))
vlm.command()(checked(cost))
vlm.command()(checked(search))
vlm.command()(checked(search_gradient))
vlm.command()(checked(evaluate))
vlm.add_typer(benchmark)
vlm.command()(checked(push))
vlm.command("train-scenes")(checked(train_scenes))
vlm.command("train-photos")(checked(train_photos))
