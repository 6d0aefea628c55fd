"""The landscape probe against a brute-force twin, cell by cell; same bytes whatever the workers, nothing lost."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from far_device import far, far_device, far_module
from torch.func import functional_call
from toy import Toy

import gradprobe as gp
from gradprobe.core import Noise, Tokens
from gradprobe.errors import GradprobeError, Notice, UsageError
from gradprobe.landscapes.directions import along, filter_normalized
from gradprobe.landscapes.planes import axis
from gradprobe.models.scorers import MLP, Transformer
from gradprobe.probes.landscape import encoder_calls
from gradprobe.probes.landscape.measure import landscape
from gradprobe.store.results import Store
from gradprobe.tasks import Classification

K, IMAGES = 4, 11  # 11: two groups of unequal size
OPERATORS = ("gumbel", "hard", "vpnoise:tau=0.3", "scale", "softtopk", "gumbel-ste+zero", "random+mean")
SCORERS = {"mlp": MLP(width=130), "transformer": Transformer(depth=1, width=8)}


def toy(scorer="mlp", **fields):
    torch.manual_seed(0)
    return Toy(scorer=SCORERS[scorer].make(5, 0).double(), **fields)


def twin(task, name, grid, noise="common", images=IMAGES, reach=0.3, seed=0):
    """Return every cell on its own, by the definition: ``mean loss at theta + a d1 + b d2``."""
    theta = {n: p.detach() for n, p in task.scorer.named_parameters()}
    d1, d2 = (filter_normalized(theta, 2 * seed + i) for i in (0, 1))
    rows, columns = grid
    (batch,) = task.batches(1, images, seed)
    losses = np.empty((rows, columns, images))
    for i, a in enumerate(np.zeros(1) if rows == 1 else axis(reach, rows)):
        for j, b in enumerate(axis(reach, columns)):
            point = along(theta, [d1, d2], [a, b])
            key = Noise(seed, batch.ids) if noise == "common" else Noise(seed, batch.ids).draw(1 + i * columns + j)
            with torch.no_grad():
                scores = functional_call(task.scorer, point, (batch.tokens.patches,))
                selection = gp.build(name)(batch.tokens.patches, scores, K, noise=key)
                losses[i, j] = task.losses(selection, batch)
    return losses


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("noise", ["common", "fresh"])
@pytest.mark.parametrize("name", OPERATORS)
def test_every_cell_is_the_loss_at_its_place(name, noise, scorer):
    result = landscape(toy(scorer), gp.build(name), K, grid="3x7", noise=noise, images=IMAGES)
    np.testing.assert_allclose(result.losses, twin(toy(scorer), name, (3, 7), noise), rtol=1e-10)
    assert result.a.tolist() == axis(0.3, 3).tolist() and result.b.tolist() == axis(0.3, 7).tolist()
    if noise == "common":
        assert result.losses[1, 3].tobytes() == result.centre.tobytes()


def test_a_long_line_is_made_in_pieces_that_fit_together():
    result = landscape(toy(), gp.build("gumbel"), K, grid="131", images=2, noise="fresh")
    np.testing.assert_allclose(result.losses, twin(toy(), "gumbel", (1, 131), "fresh", images=2), rtol=1e-10)


def test_a_line_is_the_middle_row_of_the_plane():
    plane = landscape(toy(), gp.build("vpnoise"), K, grid="5x9", images=IMAGES)
    line = landscape(toy(), gp.build("vpnoise"), K, grid="9", images=IMAGES)
    assert line.losses.tobytes() == plane.losses[2].tobytes() and line.a.tolist() == [0.0]


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("name", OPERATORS)
def test_the_centre_is_the_plain_loss_bit_for_bit(name, scorer):
    task = toy(scorer)
    result = landscape(task, gp.build(name), K, grid="3x3", images=8)
    (batch,) = task.batches(1, 8, 0)
    with torch.no_grad():
        scores = task.scorer(batch.tokens.patches)
        plain = task.losses(gp.build(name)(batch.tokens.patches, scores, K, noise=Noise(0, batch.ids)), batch)
    assert result.losses[1, 1].tobytes() == result.centre.tobytes() == plain.numpy().tobytes()


@pytest.mark.parametrize("name", ["gumbel", "vpnoise"])
def test_the_number_of_workers_does_not_change_a_bit(name):
    one, three = (landscape(toy(), gp.build(name), K, grid="5x5", images=IMAGES, workers=n) for n in (1, 3))
    assert one.losses.tobytes() == three.losses.tobytes()


def test_an_unchanged_selection_is_not_evaluated_again_and_the_numbers_stay(monkeypatch):
    calls = []
    real = Classification.losses
    monkeypatch.setattr(Classification, "losses", lambda self, *x: (calls.append(len(x[0].tokens)), real(self, *x))[1])
    task = gp.classification("scenes", weights="none")
    fast = landscape(task, gp.build("gumbel"), 58, grid="81", images=8, reach=0.1)
    few = sum(calls)
    calls.clear()
    monkeypatch.setattr(encoder_calls, "_same_images", lambda now, before: torch.zeros(len(now.tokens)).bool())
    slow = landscape(task, gp.build("gumbel"), 58, grid="81", images=8, reach=0.1)
    assert fast.losses.tobytes() == slow.losses.tobytes()
    assert few < 0.8 * sum(calls)


def test_cells_share_encoder_calls_of_one_size(monkeypatch):
    calls = []
    monkeypatch.setattr(
        Toy, "losses", lambda self, *x, real=Toy.losses: (calls.append(len(x[0].tokens)), real(self, *x))[1]
    )
    landscape(toy(), gp.build("vpnoise"), K, grid="80", images=3)
    assert set(calls) == {8} and len(calls) == 2 + 80 * 3 / 8


def test_the_model_is_as_found_also_after_an_exception():
    task = toy()
    task.scorer.out.weight.requires_grad_(False)
    before = {n: (p.detach().clone(), p.requires_grad) for n, p in task.scorer.named_parameters()}
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)

    def stop(what, done, total):
        raise RuntimeError("stop")

    landscape(task, gp.build("gumbel"), K, grid="3x3", images=3)
    with pytest.raises(RuntimeError, match="stop"):
        landscape(task, gp.build("gumbel"), K, grid="3x3", images=3, progress=stop)
    for n, p in task.scorer.named_parameters():
        assert torch.equal(p, before[n][0]) and p.requires_grad == before[n][1]
    assert torch.equal(state, torch.random.get_rng_state()) and torch.get_num_threads() == 2
    torch.set_num_threads(threads)


def test_a_loss_that_is_not_finite_stays_so_and_says_so():
    result = landscape(toy(poison=2), gp.build("scale"), K, grid="3x5", images=4)
    assert np.isposinf(result.losses[..., 2]).all()
    assert np.isfinite(np.delete(result.losses, 2, axis=-1)).all() and not np.isfinite(result.surface).any()
    row = result.row()
    assert row["loss"] is None and row["d2_variation"] is None and row["range"] is None


@dataclass(frozen=True)
class Negative(Toy):
    """Losses below zero, which a resumable run must not take for cells that are still to do."""

    def losses(self, selection, batch):
        return super().losses(selection, batch) - 10


@pytest.mark.parametrize("name", ["gumbel", "vpnoise"])
def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(name, tmp_path, monkeypatch):
    task = Negative(scorer=MLP(width=8).make(5, 0).double())
    settings = {"grid": "6x6", "images": IMAGES, "steps": 2, "seed": 3}
    whole = landscape(Negative(scorer=MLP(width=8).make(5, 0).double()), gp.build(name), K, **settings)

    def stop(what, done, total):
        if what.endswith("cells") and done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        landscape(task, gp.build(name), K, **settings, workers=1, folder=tmp_path, progress=stop)
    trained = {n: p.detach().clone() for n, p in task.scorer.named_parameters()}
    reports = []
    fresh = Negative(scorer=MLP(width=8).make(5, 0).double())
    again = landscape(fresh, gp.build(name), K, **settings, folder=tmp_path, progress=lambda *x: reports.append(x))
    assert again.losses.tobytes() == whole.losses.tobytes() and (again.losses < 0).all()
    assert reports[0][0].endswith("cells") and reports[0][1] >= 6, "trained or began again"
    assert len(reports) < 2 * 36, "evaluated what was kept"
    assert all(torch.equal(p, trained[n]) for n, p in fresh.scorer.named_parameters())


def test_fresh_noise_is_rough_where_common_noise_is_smooth():
    common, fresh = (
        landscape(toy(), gp.build("vpnoise"), K, grid="61", noise=noise, images=IMAGES).row()
        for noise in ("common", "fresh")
    )
    assert abs(common["d2_exponent"]) < 0.05 < 0.7 < fresh["d2_exponent"] < 1.3
    assert fresh["d2_variation"] > 3 * common["d2_variation"]


def test_total_variation_of_a_smooth_operator_is_the_same_on_all_grids_and_a_hard_ones_is_not():
    rows = {name: landscape(toy(), gp.build(name), K, grid="65", images=40).row() for name in ("scale", "hard")}
    assert rows["scale"]["d2_exponent"] == pytest.approx(0, abs=0.01) and rows["scale"]["d2_zero_share"] == 0
    assert rows["hard"]["d2_exponent"] > 0.2 and rows["hard"]["d2_zero_share"] > 0.1


def test_parameters_can_be_chosen_and_biases_moved():
    hidden = landscape(toy(), gp.build("scale"), K, grid="5", images=3, params="hidden.*")
    all_of_it = landscape(toy(), gp.build("scale"), K, grid="5", images=3, one_d="vector")
    assert hidden.directions["parameters"] == 130 * 6 and all_of_it.directions["parameters"] == 130 * 7 + 1
    theta = {n: p.detach() for n, p in toy().scorer.named_parameters()}
    d2 = filter_normalized({n: p for n, p in theta.items() if n.startswith("hidden")}, 1)
    (batch,) = toy().batches(1, 3, 0)
    scores = functional_call(toy().scorer, along(theta, [d2], [float(hidden.b[0])]), (batch.tokens.patches,))
    selection = gp.build("scale")(batch.tokens.patches, scores, K, noise=Noise(0, batch.ids))
    np.testing.assert_allclose(hidden.losses[0, 0], toy().losses(selection, batch).detach().numpy(), rtol=1e-12)


def test_a_trajectory_lies_where_it_says_in_its_principal_plane():
    result = landscape(toy(), gp.build("vpnoise"), K, grid="9x11", images=3, axes="pca", steps=20, learning_rate=0.05)
    assert result.path.shape == (11, 2) and np.allclose(result.path[-1], 0) and result.explained.sum() <= 1 + 1e-9
    assert result.explained[1] >= result.explained[0] and ((result.residual >= 0) & (result.residual <= 1)).all()
    assert np.ptp(result.path[:, 1]) > np.ptp(result.path[:, 0]), "the first component runs along d2"
    assert (result.path.min(0) >= [result.a[0], result.b[0]]).all() and (
        result.path.max(0) <= [result.a[-1], result.b[-1]]
    ).all()
    line = landscape(toy(), gp.build("vpnoise"), K, grid="11", images=3, axes="pca", steps=20, learning_rate=0.05)
    np.testing.assert_allclose(line.path[:, 1], result.path[:, 1], atol=1e-6)
    assert (line.residual >= result.residual - 1e-6).all() and (line.path[:, 0] == 0).all()


def test_a_baseline_on_another_grid_counts_as_none():
    ours, other = (landscape(toy(), gp.build("scale"), K, grid="5", images=3, reach=reach) for reach in (0.3, 0.2))
    assert ours.row(baseline=other) == ours.row() and "d2_ratio" in ours.row(baseline=ours)
    with pytest.raises(UsageError, match="compare on one grid"):
        ours.row(baseline=landscape(toy(), gp.build("scale"), K, grid="5", images=4))


def test_a_line_through_checkpoints_passes_through_them(tmp_path):
    from safetensors.torch import save_file

    task, files = toy(), []
    for i in range(2):
        files.append(tmp_path / f"{i}.safetensors")
        save_file({n: p.detach() + i for n, p in task.scorer.named_parameters()}, files[-1])
    result = landscape(task, gp.build("scale"), K, grid="7", images=3, axes="checkpoints", checkpoints=files)
    assert result.b.tolist() == [-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    np.testing.assert_allclose(result.losses[0, [1, 5]], result.path_losses, rtol=1e-9)
    state = {f"module.{n}": p.detach() + 1 for n, p in task.scorer.named_parameters()}
    torch.save({"epoch": 3, "model_state_dict": state}, tmp_path / "1.pth")  # as a training leaves it
    with pytest.warns(Notice, match="taken from model_state_dict, prefix module. cut off"):
        again = landscape(
            task,
            gp.build("scale"),
            K,
            grid="7",
            images=3,
            axes="checkpoints",
            checkpoints=(files[0], tmp_path / "1.pth"),
        )
    assert np.array_equal(again.losses, result.losses)
    steps = landscape(toy(), gp.build("scale"), K, grid="3x7", images=3, axes="checkpoints", checkpoints=(0, 3, 6))
    assert steps.question["checkpoints"] == "0,3,6" and steps.path.tolist() == [[0, 0], [0, 1], [1, 0]]
    with pytest.raises(UsageError, match="of another scorer"):
        save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
        landscape(
            toy(),
            gp.build("scale"),
            K,
            grid="7",
            axes="checkpoints",
            checkpoints=(files[0], tmp_path / "w.safetensors"),
        )


@dataclass(frozen=True)
class Scribbling:
    """An operator that writes into the random numbers that it is given, as it may: they are its own."""

    def __call__(self, patches, scores, k, noise):
        return gp.Selection(patches * noise.normal((1,), like=patches).mul_(2)[..., None], torch.ones_like(scores))


def test_remembered_noise_is_not_what_an_operator_made_of_it():
    result = landscape(toy(), Scribbling(), K, grid="5", images=3)
    assert (result.losses[0] == result.losses[0, 0]).all()


@dataclass(frozen=True)
class Unkeyed:
    """An operator that draws from torch's global generator."""

    def __call__(self, patches, scores, k, noise):
        return gp.Selection(patches * torch.rand(1), torch.ones_like(scores))


def test_an_operator_with_random_numbers_of_its_own_is_refused_before_the_work_begins():
    done = []
    with pytest.raises(GradprobeError, match="from the noise that it is given"):
        landscape(toy(), Unkeyed(), K, grid="3x3", images=3, progress=lambda *x: done.append(x))
    assert not done


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"grid": "2x3"}, "at least 3 points"),
        ({"grid": "1e3"}, "give rows x columns such as 61x31"),
        ({"grid": "3x3x3"}, "61x31"),
        ({"reach": -1.0}, "give a positive number"),
        ({"noise": "freash"}, "fresh"),
        ({"one_d": "all"}, "vector"),
        ({"params": "weights"}, "no parameter matches 'weights'"),
        ({"images": 0}, "--images 0"),
        ({"workers": 0}, "--workers 0"),
        ({"axes": "pca"}, "--steps 200"),
        ({"axes": "checkpoints"}, "checkpoints:A,B"),
        ({"axes": "pca", "steps": 3, "reach": 0.1}, "for --axes random"),
        ({"axes": "checkpoints", "checkpoints": (0, 1), "grid": "3x3"}, "a plane needs 3"),
        ({"axes": "checkpoints", "checkpoints": (0, 1), "grid": "3", "steps": 5}, "takes no --steps"),
    ],
)
def test_wrong_settings_are_refused_in_words(settings, words):
    with pytest.raises(UsageError, match=words.replace("(", "\\(")):
        landscape(toy(), gp.build("scale"), K, **{"grid": "3x3", "images": 3} | settings)


def test_a_stored_landscape_is_read_back_whole(tmp_path):
    result = landscape(toy(), gp.build("vpnoise"), K, grid="3x5", images=3)
    back = Store(tmp_path).load(Store(tmp_path).save(result))
    for name in ("losses", "a", "b", "centre", "path", "path_losses", "explained", "residual"):
        ours, theirs = getattr(result, name), getattr(back, name)
        assert ours.tobytes() == theirs.tobytes() and ours.dtype == theirs.dtype
    assert back.question == result.question and back.row() == result.row()


@pytest.mark.real
@pytest.mark.parametrize("name", ["gumbel", "vpnoise"])
def test_on_a_real_model_no_bit_depends_on_workers_neighbours_or_skipping(name, assets, monkeypatch):
    task = gp.classification(
        "deit_tiny_patch16_224", weights=str(assets / "deit_tiny_patch16_224/model.safetensors"),
        data=str(assets / "imagenet-sample"), scorer="mlp:width=64",
    )  # fmt: skip
    settings = {"grid": "5", "images": 8, "reach": 0.05}
    one, two = (landscape(task, gp.build(name), 58, **settings, workers=n) for n in (1, 2))
    monkeypatch.setattr(encoder_calls, "_same_images", lambda now, before: torch.zeros(len(now.tokens)).bool())
    whole = landscape(task, gp.build(name), 58, **settings)
    assert one.losses.tobytes() == two.losses.tobytes() == whole.losses.tobytes()
    (batch,) = task.batches(1, 8, 0)
    with torch.no_grad(), task.running():
        selection = gp.build(name)(batch.tokens.patches, task.scorer(batch.tokens.patches), 58, Noise(0, batch.ids))
        assert one.losses[0, 2].tobytes() == task.losses(selection, batch).numpy().tobytes()


@pytest.mark.parametrize("name", ["hard", "gumbel", "vpnoise", "softtopk"])
@pytest.mark.parametrize("noise", ["common", "fresh"])
def test_a_device_that_is_not_waited_for_gives_the_numbers_of_a_cpu(name, noise):
    class Distant(Toy):
        def _batch(self, ids):
            batch = super()._batch(ids)
            tokens = Tokens(far(batch.tokens.prefix), far(batch.tokens.patches))
            return replace(batch, tokens=tokens, target=far(batch.target))

    settings = {"grid": "4x9", "images": 12, "noise": noise, "workers": 1}
    near = landscape(Toy(), gp.build(name), K, **settings)
    with far_device():
        task = Distant()
        far_module(task.scorer)
        distant = landscape(task, gp.build(name), K, **settings)
    assert np.allclose(near.losses, distant.losses, rtol=1e-9, atol=0)
    for way in (0, 1):  # cells with the same selections have the same losses, bit for bit
        assert np.array_equal(np.diff(near.losses, axis=way) == 0, np.diff(distant.losses, axis=way) == 0)
