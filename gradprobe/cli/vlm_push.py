"""``gradprobe vlm push``: a pruner's folder, uploaded to the Hugging Face hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json
from gradprobe.errors import UsageError


def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a pruner, or with a plan.json.")],
    repo_id: Annotated[str, typer.Argument(metavar="USER/NAME", help="Repository; made if it is not there.")],
    private: Annotated[
        bool | None, typer.Option(help="Of a repository that is made; by default as your settings say.")
    ] = None,
    branch: Annotated[str | None, typer.Option(help="Branch, made if need be; by default the main one.")] = None,
    license: Annotated[
        str | None, typer.Option(help="Licence for the card; by default what it says, or apache-2.0.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Data on the hub that it was trained on, for the card; repeatable.")
    ] = None,
    message: Annotated[str, typer.Option(help="First line of the commit's message.")] = "Push pruner with gradprobe",
    as_json: options.Json = False,
) -> None:
    """Upload a pruner to the Hugging Face hub, in one commit: scorer or plan, budget and card, no other files.

    The token that may write is that of hf auth login, or HF_TOKEN.
    """
    from gradprobe.vlm import hub

    if not folder.is_dir() or not hub.holds_pruner(folder):
        raise UsageError(
            f"there is no pruner in {folder}; name the folder that vlm train --out wrote, or one with a plan.json"
        )
    from gradprobe.vlm.pruner_files import stage_files

    for name in dataset or []:
        if hub.hub_id(name) is None:
            raise UsageError(f"--dataset {name} is no id of the hub; give user/name")
    with TemporaryDirectory() as staged:
        stage_files(folder, Path(staged), repo_id, license, dataset or ())
        address = hub.push(Path(staged), repo_id, private=private, branch=branch, message=message)
    if as_json:
        say_json({"repository": repo_id, "branch": branch or "main", "commit": address})
        return
    say(f"pushed: {address}")
    at = f"@{branch}" if branch else ""
    say(f'to use it: gradprobe vlm generate --pruner {repo_id}{at} --image x.jpg --prompt "..."', err=True)
