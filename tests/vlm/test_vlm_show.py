"""Figure 5: the ranking is the deployed one, tokens stand where their pixels are, and the picture shows both."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from figure_words import assert_readable, laid_out
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from PIL import Image
from tiny_vlms import FAMILIES, SIBLINGS, SIZES, made, over, shared, tiny
from typer.testing import CliRunner

from gradprobe.cli.vlm_show import show
from gradprobe.core import hard_topk
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators.registry import part
from gradprobe.plotting.style import BLUE, VERMILION
from gradprobe.vlm.families.base import View
from gradprobe.vlm.model import VLM
from gradprobe.vlm.ranking import NORM, ranking
from gradprobe.vlm.ranking_figure import means_lines, ranking_figure

CASES = [(family, size) for family in FAMILIES if family not in SIBLINGS for size in range(len(SIZES))]
app = typer.Typer()
app.command()(show)


def scorer_of(vlm, seed=1):
    return part("scorer", "mlp:width=8").make(vlm.dim, seed)


def drawn(shown):
    return ranking_figure(shown.views, shown.top, shown.bottom, shown.similarity, shown.means(), "a title")


# --- the ranking ---


@over()
def test_the_top_is_what_is_deployed_and_the_bottom_what_a_negated_scorer_would_deploy(family):
    vlm = shared(family)
    inputs, scorer = made(vlm, [[1]]), scorer_of(vlm)
    shown = ranking(vlm, inputs, 4, scorer)
    tokens = vlm.vision_features(inputs).tokens[0][None]
    scores = scorer(tokens)
    assert sorted(shown.top) == hard_topk(tokens, scores, 4).index[0].tolist()
    assert sorted(shown.bottom) == hard_topk(tokens, -scores, 4).index[0].tolist()
    ordered = shown.scores[np.concatenate([shown.top, shown.bottom])]
    assert (np.diff(ordered) <= 0).all()
    np.testing.assert_allclose(shown.scores, scores[0].detach(), rtol=1e-5)


@over()
def test_the_matrix_is_the_cosine_of_each_pair_and_means_leave_the_diagonal_out(family):
    vlm = shared(family)
    inputs, k = made(vlm, [[2]]), 3
    shown = ranking(vlm, inputs, k)
    tokens = vlm.vision_features(inputs).tokens[0].double().numpy()
    both = [tokens[i] for i in [*shown.top, *shown.bottom]]
    expected = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in both] for a in both]
    np.testing.assert_allclose(shown.similarity, expected, atol=1e-9)
    pairs = [expected[i][j] for i in range(k) for j in range(k) if i != j]
    assert shown.means()["top"] == pytest.approx(np.mean(pairs))
    assert shown.means()["across"] == pytest.approx(np.mean([row[k:] for row in expected[:k]]))
    assert shown.ranked_by == NORM and np.argmax(np.linalg.norm(tokens, axis=1)) == shown.top[0]
    assert ranking(vlm, inputs, 1).means()["top"] is None  # one token has no pair


def unmixed(family):
    """A model whose tower mixes nothing between places: a token is its own pixels and nobody else's."""
    vlm = tiny(family)
    for name, parameter in vlm.family.tower(vlm.model).named_parameters():
        if any(layer in name for layer in ("out_proj", "attn.proj", "projection_layer")):
            parameter.data.zero_()
    return vlm


@pytest.mark.parametrize(("family", "size"), CASES)
def test_a_token_stands_on_the_pixels_that_it_is_made_of(family, size):
    vlm = seen_through(unmixed(family), SimpleNamespace(image_mean=(0.5,) * 3, image_std=(0.1,) * 3))
    inputs = made(vlm, [[size]])
    before, tokens = ranking(vlm, inputs, 1), vlm.vision_features(inputs).tokens[0]
    generator, hits = torch.Generator().manual_seed(3), 0
    for _ in range(12):
        other = {name: value.clone() for name, value in inputs.items()}
        flat = other["pixel_values"].view(-1)
        place = torch.randint(len(flat), (1,), generator=generator)
        flat[place] = -2 * flat[place].sign()
        changed = (vlm.vision_features(other).tokens[0] != tokens).any(1).nonzero().flatten().tolist()
        after = ranking(vlm, other, 1)
        cells, first = [], 0
        for old, new in zip(before.views, after.views, strict=True):
            (height, width), (rows, columns) = old.image.shape[:2], old.grid
            places = np.argwhere(np.abs(new.image - old.image).max(-1) > 1e-3)
            cells += [first + int(y * rows // height) * columns + int(x * columns // width) for y, x in places]
            first += rows * columns
        if cells:  # padding of tiles, and Qwen's second copy of a picture, are not seen
            assert changed == cells
            hits += 1
    assert hits >= 2


def seen_through(vlm, images):
    """The same model with an image processor."""
    return VLM(vlm.name, vlm.model, vlm.family, SimpleNamespace(image_processor=images))


def laid_together(views, seen):
    """The picture that the views show, tiles row by row, without an overview."""
    tiles = [view.image for view in views if view.title != "overview"]
    across = seen[1] // tiles[0].shape[1]
    lines = [np.concatenate(tiles[i : i + across], 1) for i in range(0, len(tiles), across)]
    return np.concatenate(lines)


def plain(height, width):
    """A picture of which every pixel differs."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x * 7 + y * 13) % 256], -1).astype(np.uint8)


@over()
def test_the_picture_and_the_layout_are_those_of_the_processor(family):
    vlm, (_, images) = shared(family), shared(family).family.tiny()
    layout = vlm.family.layout(vlm.model.config, vlm.family.layout(vlm.model.config, (56, 64)).seen)
    picture = plain(*layout.seen)
    inputs = images(Image.fromarray(picture), return_tensors="pt")
    shown = ranking(seen_through(vlm, images), inputs, 2)
    np.testing.assert_allclose(laid_together(shown.views, layout.seen) * 255, picture, atol=1e-3)
    assert tuple(each.grid for each in shown.views) == layout.grids and len(shown.scores) == layout.tokens


def test_what_cannot_be_ranked_says_what_can():
    vlm = shared("llava")
    with pytest.raises(UsageError, match="--k 1 to --k 8"):
        ranking(vlm, made(vlm, [[0]]), 9)
    with pytest.raises(UsageError, match="the inputs hold 2"):
        ranking(vlm, made(vlm, [[0, 0]]), 2)
    with pytest.raises(UsageError, match="the inputs hold 0"):
        ranking(vlm, made(vlm, [[]]), 2)
    broken = scorer_of(vlm)
    broken.out.bias.data.fill_(torch.nan)
    with pytest.raises(GradprobeError, match="no numbers"):
        ranking(vlm, made(vlm, [[0]]), 2, broken)


# --- the figure ---


@over()
def test_red_cells_are_the_top_and_blue_ones_the_bottom(family):
    vlm = shared(family)
    shown = ranking(vlm, made(vlm, [[1]]), 5, scorer_of(vlm))
    figure = drawn(shown)
    *pictures, matrix = figure.axes
    painted, first = {VERMILION: [], BLUE: []}, 0
    for axes, view in zip(pictures, shown.views, strict=True):
        for layer, colour in zip(axes.images[1:], painted, strict=True):
            paint = np.asarray(layer.get_array())
            assert paint.shape == (*view.grid, 4)
            painted[colour] += [first + int(i) for i in np.flatnonzero(paint[..., 3])]
            assert all(tuple(c) == to_rgb(colour) for c in paint[paint[..., 3] > 0][:, :3])
        first += view.grid[0] * view.grid[1]
    assert painted == {VERMILION: sorted(shown.top), BLUE: sorted(shown.bottom)}
    np.testing.assert_array_equal(matrix.images[0].get_array(), shown.similarity)


def test_an_outline_goes_round_a_set_and_not_through_it():
    image = np.ones((40, 40, 3))
    top, bottom = np.array([0, 1]), np.array([10])  # a pair side by side in the corner, and a cell inside
    figure = ranking_figure(
        [View("", image, (4, 4))], top, bottom, np.eye(4), dict.fromkeys(("top", "bottom", "across"))
    )
    lines = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    assert [len(each.get_segments()) for each in lines] == [6, 4]
    inside = np.array([[10.0, 0.0], [10.0, 10.0]])
    assert not any(np.array_equal(np.sort(s, 0), inside) for s in lines[0].get_segments())


@pytest.mark.parametrize("tiles", [1, 2, 3, 4, 5, 10, 13])
@pytest.mark.parametrize("shape", [(40, 40), (30, 60)])
def test_titles_of_any_number_of_tiles_do_not_meet_and_all_tokens_are_drawn(tiles, shape):
    names = [""] if tiles == 1 else [*(f"tile {number}" for number in range(1, tiles)), "overview"]
    views = [View(name, np.ones((*shape, 3)), (4, 4)) for name in names]
    top, bottom = np.arange(8), np.arange(16 * tiles - 8, 16 * tiles)
    means = {"top": 0.1, "bottom": 0.2, "across": None}
    figure = ranking_figure(views, top, bottom, np.eye(16), means, "a picture with a name.png, 8 of 208 tokens")
    assert_readable(laid_out(figure))
    assert sum(len(axes.images) == 3 for axes in figure.axes) == tiles
    assert figure.get_size_inches()[1] < 7


def test_means_are_told_with_the_number_of_tokens():
    text = " ".join(means_lines({"top": 0.25, "bottom": None, "across": -0.125}, 1, 9))
    assert "1 of 9 tokens" in text and "within the top 1: 0.250; within the bottom 1: –; across: -0.125" in text


# --- the command ---


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The embedded model's shape with random weights, and a pruner of it."""
    from gradprobe.vlm.deploy import save
    from gradprobe.vlm.embedded import blank_vlm, digits_processor

    folder = tmp_path_factory.mktemp("scenes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = blank_vlm()
    model.save_pretrained(folder)
    digits_processor().save_pretrained(folder)
    vlm = VLM.of(model, name=str(folder))
    metadata = {**vlm.metadata, "scorer": "mlp:width=8", "k": 11, "op": "lapsum+vpnoise"}
    return folder, save(tmp_path_factory.mktemp("pruner"), scorer_of(vlm), metadata)


def test_it_draws_a_picture_of_the_embedded_model_and_a_file(scenes, tmp_path):
    folder, pruner = scenes
    run = CliRunner().invoke
    figure = tmp_path / "f.png"
    result = run(app, ["--pruner", str(pruner), "--picture", "3", "--figure", str(figure)])
    assert result.exit_code == 0, result.output
    assert figure.stat().st_size > 10_000
    for words in ("11 of 100 tokens at each end", "within the top 11:", "on digits:"):
        assert words in result.output
    file = tmp_path / "x.jpg"
    Image.fromarray(plain(90, 120)).save(file)
    options = ["--image", str(file), "--k", "7", "--figure", str(tmp_path / "g.svg"), "--json"]
    answer = json.loads(run(app, ["--model", str(folder), *options]).stdout)
    assert answer["settings"] == {
        "model": str(folder), "ranked_by": NORM, "image": "x.jpg", "k": 7, "tokens": 100,
    }  # fmt: skip
    assert len(answer["top"]) == 7 and answer["relevant"] is None and len(answer["scores"]) == 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--pruner DIR"),
        (["--model", "MODEL", "--k", "3"], "either --image FILE or --picture"),
        (["--model", "MODEL", "--picture", "1"], "give --k"),
        (["--model", "MODEL", "--k", "51", "--picture", "1"], "--k 1 to --k 50"),
        (["--model", "MODEL", "--k", "3", "--picture", "-1"], "--picture -1"),
        (["--model", "MODEL", "--k", "3", "--image", "nowhere.jpg"], "there is no file nowhere.jpg"),
        (["--model", "MODEL", "--k", "3", "--image", "TEXT"], "cannot be read as an image"),
        (["--pruner", "MODEL", "--picture", "1"], "there is no pruner"),
    ],
)
def test_a_wrong_input_says_what_to_type_and_draws_nothing(scenes, tmp_path, arguments, words):
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    names = {"MODEL": str(scenes[0]), "TEXT": str(text)}
    figure = tmp_path / "f.png"
    result = CliRunner().invoke(app, [*(names.get(a, a) for a in arguments), "--figure", str(figure)])
    assert isinstance(result.exception, GradprobeError) and words in str(result.exception)
    assert not figure.exists()


def test_a_figure_of_no_known_kind_is_refused_before_the_model_is_opened(tmp_path):
    result = CliRunner().invoke(app, ["--model", "nowhere", "--picture", "1", "--k", "3", "--figure", "f.xyz"])
    assert isinstance(result.exception, UsageError) and "f.xyz" in str(result.exception)
