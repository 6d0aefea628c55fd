"""``gradprobe vlm show``: ranking of an image's tokens by a pruner."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gradprobe.cli import options
from gradprobe.cli.output import say, say_json
from gradprobe.cli.vlm_selected import Select, Selected, Trained
from gradprobe.errors import UsageError


def show(
    figure: Annotated[Path, typer.Option(help="Draw into this .png, .svg or .pdf.")],
    pruner: Trained = None,
    select: Select = None,
    model: Annotated[
        str | None, typer.Option(help="The model, where it lies elsewhere; alone: tokens are ranked by length.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="An image file.")] = None,
    picture: Annotated[
        int | None, typer.Option(help="Instead: a held-out picture of an embedded model by number.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text that selectors read; of a picture: its question by default.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Tokens at each end; the pruner's own without it.")] = None,
    device: options.Device = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; float32 on a CPU.")] = None,
    trust: options.Trust = None,
    as_json: options.Json = False,
) -> None:
    """Draw the top K and bottom K tokens of an image, and their similarities (the paper's Fig. 5).

    Of selectors that keep a set and rank nothing: the K that are kept, and K of the others drawn at random.
    """
    from gradprobe.plotting.style import check_path, save_figure

    check_path(figure)
    if pruner is None and model is None and select is None:
        raise UsageError(
            "give --pruner DIR (a trained pruner), --select divprune (or another selector), or --model NAME alone to "
            "rank tokens by their length"
        )
    if (image is None) == (picture is None):
        raise UsageError("give either --image FILE or --picture NUMBER (of scenes-vlm or photos-vlm)")
    if pruner is None and k is None:
        raise UsageError("give --k, the number of tokens at each end, e.g. --k 11")
    pixels = None if image is None else options.opened_image(image)

    from gradprobe.vlm.pruner import Pruner
    from gradprobe.vlm.ranking import NORM, ranking, scores_by
    from gradprobe.vlm.ranking_figure import means_lines, ranking_figure

    selected = Selected(pruner, "norm" if pruner is None and select is None else select, model, k)
    pruned: Pruner = selected.opened(device, dtype, options.trusted(trust))
    vlm = pruned.vlm
    ranked_by = f"scorer of {pruner}" if select is None and pruned.scored else pruned.plan.label
    if pruner is None and select is None:
        ranked_by = NORM
    inputs, relevant = _inputs(vlm, pixels, picture, prompt)
    k = pruned.counts(len(vlm.vision_features(inputs).tokens[0])).last
    by = None if ranked_by == NORM else scores_by(pruned, inputs)
    shown = ranking(vlm, inputs, k, by, ranked_by)
    means, n = shown.means(), len(shown.scores)
    name = f"picture {picture}" if image is None else image.name
    title = f"{name}, {k} of {n} tokens"
    save_figure(ranking_figure(shown.views, shown.top, shown.bottom, shown.similarity, means, title), figure)
    hits = (
        None
        if relevant is None
        else {
            "top": int(relevant[shown.top].sum()),
            "bottom": int(relevant[shown.bottom].sum()),
            "all": int(relevant.sum()),
        }
    )
    if as_json:
        answer = {
            "probe": "vlm-ranking",
            "settings": {"model": vlm.name, "ranked_by": ranked_by, "image": name, "k": k, "tokens": n},
            "similarity": means,
            "relevant": hits,
            "top": shown.top.tolist(),
            "bottom": shown.bottom.tolist(),
            "scores": shown.scores.tolist(),
            "figure": str(figure),
        }
        say_json(answer)
        return
    say(f"{vlm.name}, {name}: ranked by {ranked_by}")
    for line in means_lines(means, k, n):
        say(line)
    if hits is not None:
        say(f"on digits: {hits['top']} of the top {k}, {hits['bottom']} of the bottom {k}, {hits['all']} of {n}")
    say(f"figure: {figure}")


def _inputs(vlm: Any, image: Any, picture: int | None, prompt: str | None) -> tuple[Any, Any]:
    """Return the inputs of the image and the prompt, and a mask of the tokens on digits where that is known."""
    place = getattr(vlm.processor, "image_token", "<image>")
    if picture is None:
        from gradprobe.vlm.deploy import inputs_of

        return inputs_of(vlm, [image], prompt or place), None
    import torch

    from gradprobe.data.pictures import GRID, SIZE
    from gradprobe.embedded.vlms import PHOTOS_SIZES
    from gradprobe.vlm.picture_source import PictureSource

    layout = vlm.family.layout(vlm.model.config)
    if (layout.seen, layout.grids) != ((SIZE, SIZE), ((GRID, GRID),)):
        raise UsageError(f"--picture is of scenes-vlm and photos-vlm, which {vlm.name} is not; give --image FILE")
    if picture < 0:
        raise UsageError(f"--picture {picture} is not possible; give a whole number of 0 or more")
    (example,) = PictureSource(vlm.name in PHOTOS_SIZES.values()).probe(picture, 1, 0)
    text = str(example.question) if prompt is None else f"{place} {prompt.replace(place, '').strip()}"
    ids = vlm.processor.tokenizer(text.replace(place, place * layout.tokens, 1))["input_ids"]
    pixels = torch.from_numpy(example.image()[None])
    return {vlm.family.inputs[0]: pixels, "input_ids": torch.tensor([ids])}, example.relevant
