"""Frozen model spread over two processes by FSDP: the same training, and each process holds its part."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from captioned import FEW, SCORER, captioned, log, trained, with_processor
from safetensors.torch import load_file

from gradprobe.errors import GradprobeError, UsageError
from gradprobe.operators.registry import part
from gradprobe.training.scorer_trainer import Shard
from gradprobe.vlm.captions import Captions, open_captions
from gradprobe.vlm.training.processes import process_group
from gradprobe.vlm.training.sharding import local_bytes, shard
from gradprobe.vlm.training.train import fit

ROOT = Path(__file__).parents[2]
FAMILY = "qwen2_5_vl"  # its images have different numbers of tokens: batches come in uneven parts


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Captions:
    """Eight images to train on and four held out, of three sizes."""
    return open_captions(captioned(tmp_path_factory.mktemp("data")), held_out=4)


PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from captioned import FEW, with_processor
from gradprobe.vlm.captions import open_captions
from gradprobe.vlm.training.processes import process_group
from gradprobe.vlm.training.sharding import is_sharded, local_bytes
from gradprobe.vlm.training.train import Launch, fit

if __name__ == "__main__":
    with process_group("cpu") as processes:
        assert processes.sharded and processes.shard.count == 2
        vlm, lines = with_processor({family!r}), []
        whole = sum(local_bytes(vlm.model).values())
        source = open_captions({data!r}, held_out=4)
        launch = Launch(processes, tell=lines.append)
        result = fit(vlm, source, {out!r}, FEW, rows=3, launch=launch)
        assert is_sharded(vlm.model)
        facts = {{"losses": result.losses, "whole": whole, "held": sum(local_bytes(vlm.model).values()), "told": lines}}
        Path({out!r}, f"rank{{processes.shard.rank}}").write_text(json.dumps(facts))
"""


def launched(out: Path, data: Captions) -> subprocess.CompletedProcess:
    """Train in two processes that share the frozen model, as ``accelerate launch`` starts them."""
    program, file = out / "program.py", str(data.listing.root / "captions.jsonl")
    program.write_text(PROGRAM.format(tests=str(ROOT / "tests"), data=file, out=str(out), family=FAMILY))
    command = ["accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"]
    command += ["--main_process_port", "0", str(program)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=env)


def layers_of(vlm) -> int:
    """Bytes of the layers of the language model, and of its head if that has parameters of its own."""
    head, embeddings = vlm.model.get_output_embeddings(), vlm.model.get_input_embeddings()
    own = 0 if head.weight is embeddings.weight else head.weight.nbytes
    return own + sum(p.nbytes for p in vlm.family.language(vlm.model).layers.parameters())


def scores(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Scores by a saved scorer, without their mean: nothing depends on that, and its gradient is rounding alone."""
    network = part("scorer", SCORER).make(tokens.shape[-1], 0)
    network.load_state_dict(load_file(folder / "scorer.safetensors"))
    with torch.no_grad():
        values = network(tokens)
    return values - values.mean(1, keepdim=True)


def test_two_processes_that_share_the_model_go_on_as_one(data, tmp_path):
    """The first two steps were done by a process that had the whole model."""

    def stop(what, done, total):
        if done == 2:
            raise KeyboardInterrupt

    alone = trained(FAMILY, data, tmp_path / "alone", rows=3)
    with pytest.raises(KeyboardInterrupt):
        trained(FAMILY, data, tmp_path / "both", rows=3, progress=stop)
    done = launched(tmp_path / "both", data)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / "both" / f"rank{rank}").read_text()) for rank in range(2)]
    assert ranks[0]["losses"] == ranks[1]["losses"] == pytest.approx(alone.losses, rel=1e-5)
    for one, two in zip(log(alone.out), log(tmp_path / "both"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    vlm = with_processor(FAMILY)
    tokens = torch.randn(4, 12, vlm.dim, generator=torch.Generator().manual_seed(0))
    one, two = (scores(folder, tokens) for folder in (alone.out, tmp_path / "both"))
    assert one.std() > 0.1 and torch.allclose(one, two, atol=1e-5)

    whole, spread = sum(local_bytes(vlm.model).values()), layers_of(vlm)
    assert spread > whole / 3  # the tiny model's embeddings and tower are large beside its layers
    for rank in ranks:
        assert rank["whole"] == whole
        assert rank["held"] == pytest.approx(whole - spread / 2, rel=0.01)
    assert len(ranks[0]["told"]) == 1 and "frozen model (float32)" in ranks[0]["told"][0] and not ranks[1]["told"]


def test_in_lockstep_all_do_equally_many_passes():
    for groups in ("a", "ab", "abc", "abcd", "abcde"):
        for count in (2, 3):
            parts = [Shard(rank, count, list, lockstep=True).part(groups) for rank in range(count)]
            assert len({len(mine) for mine, _ in parts}) == 1
            assert sorted(group for mine, counted in parts for group in mine[:counted]) == sorted(groups)


# Bad input


def test_what_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"--device auto spreads.*accelerate launch --use_fsdp"), process_group("auto"):
        pass
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(UsageError, match="--fsdp_offload_params true is not possible"), process_group("cpu"):
        pass


def test_an_old_torch_is_refused(monkeypatch):
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda module, *, mesh=None: module)
    with pytest.raises(GradprobeError, match=r"cannot leave parameters whole; type: pip install -U torch"):
        shard(with_processor("llava"), "cpu")


def test_a_model_that_is_spread_already_is_not_spread_again(data, tmp_path):
    vlm = with_processor("llava")
    vlm.model.hf_device_map = {"model.vision_tower": 0, "model.language_model": 1}
    with pytest.raises(UsageError, match="is spread over devices or processes already"):
        shard(vlm, "cpu")


def test_layers_outside_of_the_gpus_are_refused(data, tmp_path):
    vlm = with_processor("llava")
    vlm.model.hf_device_map = {"model.vision_tower": 0, "model.language_model": "cpu"}
    vlm.model.model.language_model.layers[1].to("meta")
    with pytest.raises(GradprobeError, match=r"does not fit the GPUs of this machine \(0, cpu\).*--use_fsdp"):
        fit(vlm, data, tmp_path, FEW)
