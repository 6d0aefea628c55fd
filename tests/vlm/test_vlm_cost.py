"""The cost of a pruned VLM: the paper's FLOPs, forms equal to what torch counts, and parts that can be timed."""

import json

import numpy as np
import pytest
import torch
import typer
from matplotlib.container import BarContainer
from rich.console import Console
from tiny_vlms import ATTENDING, FAMILIES, over, tiny
from typer.testing import CliRunner

from gradprobe.cli.vlm_cost import cost as command
from gradprobe.errors import GradprobeError, UsageError
from gradprobe.probes.cost import measure as probe
from gradprobe.vlm.costs.dimensions import config_of, layout_of, size_of, skeleton
from gradprobe.vlm.costs.figure import cost_tables, ffn_for, vlm_cost_figure
from gradprobe.vlm.costs.flops import cost

LLAVA, NEXT, QWEN = "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-v1.6-vicuna-7b-hf", "Qwen/Qwen2.5-VL-7B-Instruct"
SIZES = [(56, 56), (50, 30), (20, 90), (120, 44)]
app = typer.Typer()
app.command()(command)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with the configuration of each tiny model, and nothing else."""
    made = {}
    for family in FAMILIES:
        made[family] = tmp_path_factory.mktemp(family)
        tiny(family).model.config.save_pretrained(made[family])
    return made


def counted(call):
    with torch.no_grad(), probe.counted() as counter:
        call()
    return counter.get_total_flops()


# --- the paper's models ---


def test_table_4_to_three_figures():
    report = cost(LLAVA, k=[64])
    unpruned, pruned = report.rows()
    assert [f"{row['paper'] / 1e12:.2f}" for row in (unpruned, pruned)] == ["8.89", "2.13"]
    assert [row["paper_table_4"]["flops"] for row in (unpruned, pruned)] == [8.89, 2.13]
    assert (unpruned["sequence"], pruned["sequence"]) == (576 + 97, 64 + 97)
    assert unpruned["scorer_share"] == 0 < pruned["scorer_share"] < 0.02  # the pruner's share of the first token


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # of the files on the hub
        (LLAVA, 7_063_427_072), (NEXT, 7_063_431_168), ("llava-hf/llava-v1.6-mistral-7b-hf", 7_566_747_648),
        ("llava-hf/llava-1.5-13b-hf", 13_351_494_656), (QWEN, 8_292_166_656),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976),
        ("Qwen/Qwen2-VL-2B-Instruct", 2_208_985_600), ("Qwen/Qwen2-VL-7B-Instruct", 8_291_375_616),
        ("Qwen/Qwen3-VL-2B-Instruct", 2_127_532_032), ("Qwen/Qwen3-VL-4B-Instruct", 4_437_815_808),
        ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696), ("Qwen/Qwen3-VL-30B-A3B-Instruct", 31_070_754_032),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 8_030_348_832),
        ("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", 256_484_928),
        ("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", 507_482_304),
        ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", 2_246_784_880),
    ],
)  # fmt: skip
def test_parameters_are_the_published_ones_and_the_parts_make_the_whole(name, parameters):
    assert sum(p.numel() for p in skeleton(config_of(name)).parameters()) == parameters
    parts = cost(name).parameters
    assert parts["vision tower"] + parts["projector"] + parts["language model"] == parameters


def test_trained_parameters_and_what_the_papers_84_million_need():
    sizes = cost(LLAVA, denoiser="global").parameters
    assert round((sizes["scorer"] + sizes["denoiser"]) / 1e6, 1) == 37.8  # three blocks of width 1024 with FFN 4096
    f = ffn_for(84_000_000)
    assert 3 * (4 * 1024**2 + 2 * 1024 * f) == pytest.approx(84e6, rel=1e-4)
    assert cost(LLAVA, denoiser="none").parameters["denoiser"] == 0


def test_the_7b_model_costs_what_torch_counts_on_the_meta_device():
    report = cost(LLAVA, k=[64])
    model = skeleton(config_of(LLAVA))
    pixels = torch.empty(1, 3, 336, 336, device="meta")
    full = report.flops[0]
    assert counted(lambda: model.model.get_image_features(pixels)) == full.vision + full.projector
    for each in report.flops:
        embeds = torch.empty(1, each.sequence, 4096, device="meta")
        read = counted(lambda e=embeds: model.model.language_model(inputs_embeds=e, use_cache=True))
        assert read == each.linear + each.attention_full
        assert counted(lambda e=embeds: model.lm_head(e)) == each.head_all == each.head * each.sequence


@pytest.mark.parametrize(
    ("size", "newlines", "placeholders"), [((672, 672), 48, 2928), ((480, 640), 36, 2340), ((336, 1008), 24, 2328)]
)
def test_llava_next_packs_an_image_as_the_field_knows_it(size, newlines, placeholders):
    layout = layout_of(config_of(NEXT), size)
    assert (layout.newlines, layout.placeholders) == (newlines, placeholders)
    assert layout.tokens == placeholders - newlines
    row = cost(NEXT, k=[320], image_size=size).rows()[1]
    assert row["sequence"] == 320 + newlines + 97  # newlines are never pruned


def test_qwen_sees_an_image_at_its_own_size():
    config = config_of(QWEN)
    assert layout_of(config, (1288, 644)).grids == ((46, 23),)
    assert layout_of(config, (10_000, 10_000)).tokens <= 16_384  # the processor's largest
    layout = layout_of(config, (1288, 644))
    assert layout.patches == 4 * layout.tokens == sum(layout.windows)
    assert max(layout.windows) == 64  # 112 px: 8 x 8 patches


# --- any model ---


@pytest.mark.parametrize("size", SIZES)
@over()
def test_every_family_costs_what_torch_counts(folders, family, size):
    vlm = tiny(family)
    report = cost(str(folders[family]), k=[3], image_size=size, text_tokens=11, scorer="mlp:width=8")
    layout = report.layout
    inputs = vlm.family.random_inputs(vlm.model.config, [layout])
    features = vlm.vision_features(inputs)
    made = [sum(len(part) for part in parts) for parts in (features.tokens, features.slots)]  # without a text: tiles
    assert made == [layout.tokens, layout.placeholders]
    unpruned, pruned = report.flops
    assert counted(lambda: vlm.model.model.get_image_features(**inputs)) == unpruned.vision + unpruned.projector
    some = features.tokens[0][:3]
    assert counted(lambda: (vlm.project(some), vlm.streams(some))) == pruned.projector
    for each in report.flops:
        embeds = torch.randn(1, each.sequence, 48)
        mask = torch.ones(1, each.sequence, dtype=torch.long)
        read = counted(
            lambda e=embeds, m=mask: vlm.family.language(vlm.model)(inputs_embeds=e, attention_mask=m, use_cache=True)
        )
        assert read == each.linear + each.attention_full
        pairs = sum(1 for query in range(each.sequence) for _ in range(query + 1))
        if family in ATTENDING:
            assert each.attention * each.sequence**2 == each.attention_full * pairs
        assert each.total == each.vision + each.scorer + each.projector + each.linear + each.attention + each.head
    assert pruned.scorer == 2 * layout.tokens * (vlm.dim * 8 + 8) and unpruned.scorer == 0


def test_fewer_tokens_cost_less_and_ratio_is_a_share_of_n():
    report = cost(LLAVA, k=[64, 192], ratio=[0.5])
    assert [each.kept for each in report.flops] == [576, 288, 192, 64]
    totals = [each.total for each in report.flops]
    assert totals == sorted(totals, reverse=True)
    assert [each.kept for each in cost(NEXT).flops] == [2880, 320]  # without either: 1/9, the paper's strongest


def test_keeping_all_costs_the_scorer_more_than_not_pruning():
    unpruned, kept = cost(LLAVA, k=[576]).rows()
    assert kept["total"] - unpruned["total"] == kept["scorer"] > 0
    assert kept["paper_table_4"] is None  # it is not the paper's unpruned row


# --- time ---


@over()
def test_the_parts_are_timed_and_the_generator_is_left_as_found(folders, family):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    report = cost(str(folders[family]), k=[2, 4], image_size=SIZES[-1], scorer="mlp:width=8").measured(passes=6)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {n: times.shape for n, times in report.timing.milliseconds.items()} == dict.fromkeys((0, 4, 2), (6, 3))
    for row in report.rows():
        times = row["measured"]
        assert min(times["encoder"], times["prefill"]) > 0 and times["prefill_low"] <= times["prefill_high"]
        parts = report.timing.milliseconds[row["kept"] if row["pruned"] else 0]
        assert times["ttft"] == pytest.approx(np.median(parts.sum(1)))
    assert report.rows()[0]["measured"]["prefill_speedup"] == 1
    assert json.loads(json.dumps(report.rows())) == report.rows()


# --- tables and figure ---


def text_of(rows):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(cost_tables(rows))
    return capture.get()


def test_tables_fit_80_columns_and_set_the_paper_beside():
    text = text_of(cost(LLAVA, k=[64, 128]).rows())
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    for words in ("8.893", "2.128", "118.7", "41.61", "0.69", "2.85"):
        assert words in text
    assert "encoder" not in text_of(cost(NEXT).rows())  # nothing measured or reported: no second table


def test_a_table_of_large_numbers_fits_too():
    text = text_of(cost(NEXT, text_tokens=9999, image_size=(336, 1008)).rows())
    assert "…" not in text and "TFLOPs" in text


def test_the_table_of_a_small_model_has_a_unit_that_suits_and_what_was_measured(folders):
    rows = cost(str(folders["llava"]), k=[4], scorer="mlp:width=8").measured(passes=6).rows()
    text = text_of(rows)
    assert "MFLOPs" in text and "here" in text and "…" not in text


def test_the_bars_are_the_counts():
    rows = cost(LLAVA, k=[64]).rows()
    figure = vlm_cost_figure(rows, "a title")
    (axes,) = figure.axes
    bars = {c.get_label(): [p.get_width() for p in c] for c in axes.containers if isinstance(c, BarContainer)}
    sums = np.sum(list(bars.values()), 0) * 1e12
    np.testing.assert_allclose(sums, [row["total"] for row in rows])
    marks = next(line for line in axes.lines if line.get_label().startswith("Table 4"))
    assert list(marks.get_xdata()) == [8.89, 2.13]
    with pytest.raises(UsageError):
        vlm_cost_figure([], "")


def test_the_command_prints_draws_and_answers_in_json(tmp_path):
    run = CliRunner().invoke
    result = run(app, ["--model", LLAVA, "--k", "64", "--figure", str(tmp_path / "f.png")])
    text = " ".join(result.output.split())
    assert result.exit_code == 0, result.output
    for words in ("scorer 25.2 M", "about 84 M", "FFN of about 11,600", "1.26 % at K = 64", "576 visual tokens"):
        assert words in text
    assert (tmp_path / "f.png").stat().st_size > 5000
    answer = json.loads(run(app, ["--model", NEXT, "--ratio", "0.1", "--image-size", "480x640", "--json"]).stdout)
    assert answer["settings"]["layout"]["newlines"] == 36
    assert [row["kept"] for row in answer["rows"]] == [2304, 230]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "llava-hf/llava-1.5-7b"}, "did you mean 'llava-hf/llava-1.5-7b-hf'"),
        ({"model": LLAVA, "k": [577]}, "--k 1 to --k 576"),
        ({"model": LLAVA, "k": [0]}, "--k 0"),
        ({"model": LLAVA, "ratio": [1.5]}, "--ratio 1.5"),
        ({"model": LLAVA, "text_tokens": 0}, "--text-tokens 0"),
        ({"model": NEXT, "image_size": (1, 900)}, "--image-size 672x672"),
        ({"model": LLAVA, "scorer": "mpl"}, "mlp"),
    ],
)
def test_what_cannot_be_asked_says_what_can(arguments, words):
    with pytest.raises(UsageError, match=words):
        cost(**arguments)


@pytest.mark.parametrize(
    ("device", "words"),
    [("cpu", "too large to time on a CPU; give --device cuda"), ("tpu9", "--device tpu9"), ("mps", "--device mps"),
     ("cuda:99", "no such GPU here")],
)  # fmt: skip
def test_a_device_that_cannot_time_a_model_says_what_can(device, words):
    with pytest.raises(UsageError, match=words):
        cost(LLAVA).measured(device)


def test_parts_are_timed_in_the_precision_asked_for(folders):
    report = cost(str(folders["llava"]), k=[2], scorer="mlp:width=8")
    for dtype in ("bfloat16", "float16", "float32"):
        timing = report.measured(passes=6, dtype=dtype).timing
        assert timing.dtype == dtype
        assert all((times > 0).all() for n, times in timing.milliseconds.items() if n)
    assert report.measured(passes=6).timing.dtype == "float32"
    with pytest.raises(UsageError, match="--dtype bfloat is not possible; did you mean 'bfloat16'"):
        report.measured(passes=6, dtype="bfloat")


@pytest.mark.parametrize("text", ["672x", "axb", "1x2x3", "0x5", "-3"])
def test_image_sizes_that_are_none(text):
    with pytest.raises(UsageError, match="--image-size"):
        size_of(text)


def test_folders_that_are_no_model(tmp_path, folders):
    with pytest.raises(UsageError, match=r"no config\.json"):
        cost(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(GradprobeError, match=r"config\.json"):
        cost(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UsageError, match="qwen2_5_vl"):
        cost(str(tmp_path))
    with pytest.raises(UsageError, match="--passes 5"):
        cost(str(folders["llava"]), k=[2]).measured(passes=5)
