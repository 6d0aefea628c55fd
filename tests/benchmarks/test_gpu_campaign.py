"""The campaign itself, with small steps in the place of those that measure."""

import io
import json
import math
import subprocess
import sys
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import gpu
import pytest
import torch
from gpu_steps import STEPS
from gpu_steps.campaign import chosen, run
from gpu_steps.machine import is_broken
from gpu_steps.report import Report, read, strict
from gpu_steps.step import ROOT, Setup, Step
from gpu_steps.table import table
from rich.console import Console

from gradprobe.errors import GradprobeError, UsageError


@dataclass
class Clock:
    """A clock that moves when it is told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Fake:
    """A step that measures numbers of its settings, each taking a second of the clock."""

    clock: Clock
    numbers: tuple[int, ...] = (1, 2, 3)
    error: Exception | None = None
    measured: list[int] = field(default_factory=list)

    def settings(self, setup):
        return {"numbers": self.numbers, "seed": 7}

    def measure(self, setup, settings, report):
        for number in settings["numbers"]:
            if report.has(number=number) or report.over(f"number {number}"):
                continue
            self.clock.now += 1
            self.measured.append(number)
            report.row({"number": number, "square": number**2})
            if self.error and number == 2:
                raise self.error
        report.line("largest square", str(max(row["square"] for row in report.rows)), "at least 4", True)


@dataclass
class Campaign:
    """Two steps, in a folder of their own."""

    setup: Setup
    clock: Clock
    fakes: dict[str, Fake]
    said: list[str] = field(default_factory=list)
    bound: float = 100.0
    least: float = 1.0

    def steps(self):
        return [
            Step(letter, "fake", f"fake {letter}", fake, self.bound, self.least) for letter, fake in self.fakes.items()
        ]

    def run(self, only=None, budget=1000.0):
        return run(chosen(self.steps(), only), self.setup, budget, self.said.append, self.clock)


@pytest.fixture
def campaign(tmp_path):
    clock = Clock()
    return Campaign(Setup("cpu", False, tmp_path), clock, {"a": Fake(clock), "b": Fake(clock, (2, 5))})


def test_every_step_writes_a_file_that_says_all_a_number_depends_on(campaign):
    outcomes = campaign.run()
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    content = json.loads((campaign.setup.out / "a-fake.json").read_text())
    assert content["rows"] == [{"number": n, "square": n * n} for n in (1, 2, 3)]
    assert content["settings"] == {"device": "cpu", "tiny": False, "numbers": [1, 2, 3], "seed": 7}
    assert content["machine"] | {"device": "cpu", "torch": torch.__version__} == content["machine"]
    assert content["machine"]["transformers"]
    assert content["seconds"] == 3
    assert content["error"] is None
    assert content["date"].startswith("20")
    assert content == read(campaign.setup.out / "a-fake.json")


def test_what_was_measured_is_not_measured_again_but_for_other_settings(campaign):
    campaign.run()
    again = campaign.run()
    assert [outcome.status for outcome in again] == ["measured earlier", "measured earlier"]
    assert again[0].content["rows"] == [{"number": n, "square": n * n} for n in (1, 2, 3)]
    assert campaign.fakes["a"].measured == [1, 2, 3]
    campaign.fakes["a"].numbers = (1, 4)
    assert [outcome.status for outcome in campaign.run()] == ["done", "measured earlier"]
    assert campaign.fakes["a"].measured == [1, 2, 3, 1, 4]
    campaign.setup = replace(campaign.setup, tiny=True)
    assert [outcome.status for outcome in campaign.run()] == ["done", "done"]


def test_a_file_of_another_device_or_a_damaged_one_counts_for_nothing(campaign):
    path = campaign.setup.out / "a-fake.json"
    campaign.run(only="a")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"machine": content["machine"] | {"device": "another card"}}))
    assert campaign.run(only="a")[0].status == "done"
    for text in ("{", "[]", '{"status": "done"}'):
        path.write_text(text)
        assert campaign.run(only="a")[0].status == "done"
    assert len(campaign.fakes["a"].measured) == 5 * 3


def test_a_step_stops_at_its_bound_and_goes_on_from_there(campaign):
    campaign.bound = 2.0
    (first,) = campaign.run(only="a")
    assert (first.status, first.content["missing"]) == ("bound reached", ["number 3"])
    assert any("not measured: number 3" in line for line in campaign.said)
    (second,) = campaign.run(only="a")
    assert (second.status, second.content["missing"]) == ("done", [])
    assert [row["number"] for row in second.content["rows"]] == [1, 2, 3]
    assert campaign.fakes["a"].measured == [1, 2, 3]


def test_a_step_leaves_the_later_ones_the_least_that_they_need(campaign):
    campaign.least = 2.0
    first, second = campaign.run(budget=4.0)
    assert first.content["bound"] == 2.0
    assert len(first.content["rows"]) == 2
    assert second.status == "done"


def test_without_time_a_step_is_skipped_and_says_so(campaign):
    campaign.least = 3.0
    first, second = campaign.run(budget=5.0)
    assert (first.status, second.status) == ("done", "skipped")
    assert second.reason == "too little of the budget is left: it needs 3 s"
    assert campaign.fakes["b"].measured == []
    assert not (campaign.setup.out / "b-fake.json").exists()
    assert campaign.run(budget=0.5)[0].status == "measured earlier"  # which takes no time


def test_a_failure_is_written_down_and_the_next_step_runs(campaign):
    campaign.fakes["a"].error = ValueError("two\nlines")
    first, second = campaign.run()
    assert (first.status, first.reason, first.broken) == ("failed", "ValueError: two", False)
    assert second.status == "done"
    content = read(campaign.setup.out / "a-fake.json")
    assert content["status"] == "failed"
    assert content["rows"] == [{"number": 1, "square": 1}, {"number": 2, "square": 4}]  # what was measured before
    assert content["error"]["message"] == "ValueError: two\nlines"
    assert "raise self.error" in content["error"]["traceback"]
    campaign.fakes["a"].error = None
    assert campaign.run()[0].status == "done"
    assert campaign.fakes["a"].measured == [1, 2, 3]


def test_a_step_that_cannot_be_imported_fails_alone(campaign):
    steps = [replace(campaign.steps()[0], module="gpu_steps.nowhere"), campaign.steps()[1]]
    first, second = run(steps, campaign.setup, 1000.0, campaign.said.append, campaign.clock)
    assert (first.status, second.status) == ("failed", "done")
    assert "gpu_steps.nowhere" in first.content["error"]["message"]


def test_steps_are_chosen_by_letter_in_their_own_order(campaign):
    assert [step.letter for step in chosen(STEPS, None)] == list("abcdefg")
    assert [step.letter for step in chosen(STEPS, "c, a")] == ["a", "c"]
    assert [outcome.step.letter for outcome in campaign.run(only="b")] == ["b"]
    for wrong in ("h", "", "a,,c", "ac"):
        with pytest.raises(UsageError, match="give some of a,b,c,d,e,f,g"):
            chosen(STEPS, wrong)


def test_all_steps_together_have_bounds_that_leave_room_for_each(tmp_path):
    assert sum(step.least for step in STEPS) <= 480 / 2
    assert all(step.least <= step.bound for step in STEPS)
    assert len({step.file for step in STEPS}) == len(STEPS)


def test_the_table_tells_marks_failures_and_gaps(campaign):
    campaign.fakes["a"].error = RuntimeError("no [red] luck")
    campaign.bound = 1.0
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(campaign.run(), "a card"))
    campaign.setup = replace(campaign.setup, device="cuda")
    text = console.export_text()
    assert "a card" in text
    assert "bound reached" in text
    assert "not measured" in text
    assert "number 5" in text
    assert "met" not in text  # on a CPU no aim is held against a number
    campaign.bound = 10.0
    campaign.setup = replace(campaign.setup, device="cpu")
    console.print(table(campaign.run(), "again"))
    assert "RuntimeError: no [red] luck" in console.export_text()


def test_an_aim_is_judged_only_where_numbers_mean_something(tmp_path):
    for judged, met in ((True, False), (False, None)):
        report = Report(tmp_path / "x.json", {}, judged=judged)
        report.line("pruner", "0.8 ms", "at most 0.69 ms", False)
        report.line("weights", "14 GB")
        assert [line["met"] for line in report.lines] == [met, None]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    assert strict({"a": [math.nan, (math.inf, 1.5)], 2: "b"}) == {"a": [None, [None, 1.5]], "2": "b"}
    report = Report(tmp_path / "x.json", {"settings": {}, "machine": {}})
    report.row({"value": math.nan})
    assert read(tmp_path / "x.json")["rows"] == [{"value": None}]


# --- the command ---


@pytest.fixture
def command(campaign, monkeypatch):
    monkeypatch.setattr(gpu, "STEPS", campaign.steps())

    def go(*arguments):
        return gpu.main(["--out", str(campaign.setup.out), "--device", "cpu", "--tiny", *arguments])

    return go


def test_the_exit_code_is_1_if_a_step_failed(command, campaign, capsys):
    threads = torch.get_num_threads()
    try:
        assert command() == 0
        campaign.fakes["b"].numbers, campaign.fakes["b"].error = (2,), ValueError("no")
        assert command() == 1
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert "largest square" in out
    assert "failed: ValueError: no" in out


def test_after_a_fault_of_the_device_the_rest_runs_in_a_new_process(command, campaign, monkeypatch):
    threads, commands = torch.get_num_threads(), []
    monkeypatch.setattr(subprocess, "run", lambda c, check: commands.append(c) or SimpleNamespace(returncode=0))
    campaign.fakes["a"].error = RuntimeError("CUDA error: an illegal memory access was encountered")
    try:
        assert command("--budget", "100") == 1
    finally:
        torch.set_num_threads(threads)
    assert campaign.fakes["b"].measured == []
    (ran,) = commands
    assert ran[ran.index("--only") + 1] == "b"
    assert 0 < float(ran[ran.index("--budget") + 1]) <= 100
    assert ran[ran.index("--out") + 1] == str(campaign.setup.out)


def test_a_fault_of_the_device_is_told_from_other_errors():
    assert is_broken(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_broken(torch.OutOfMemoryError("CUDA error: out of memory"))
    assert not is_broken(RuntimeError("shapes do not match"))
    wrapped = GradprobeError("operator x raised")
    wrapped.__cause__ = RuntimeError("CUDA error: unspecified launch failure")
    assert is_broken(wrapped)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--only", "z"], "give some of"), (["--budget", "-1"], "--budget -1"), (["--budget", "nan"], "--budget nan"),
     (["--device", "cpu"], "goes with --tiny")],
)  # fmt: skip
def test_impossible_words_end_at_once(arguments, words, capsys, tmp_path):
    assert gpu.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path)]) == 2
    assert "to rehearse without a GPU: --device cpu --tiny" in capsys.readouterr().err


def test_the_whole_campaign_runs_on_a_cpu(tmp_path):
    out = tmp_path / "results"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny", "--out", str(out)]
    command += ["--budget", "100000"]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"PATH": "", "PYTHONPATH": str(ROOT)}, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    contents = [read(out / step.file) for step in STEPS]
    assert [content["status"] for content in contents] == ["done"] * len(STEPS)
    assert all(content["rows"] and content["lines"] for content in contents)
    assert all(not content["missing"] for content in contents)
    by_letter = {content["step"]: content for content in contents}
    assert by_letter["a"]["rows"][0]["failed"] == by_letter["a"]["rows"][0]["skipped"] == 0
    assert {(row["probe"], row["dtype"]) for row in by_letter["c"]["rows"]} >= {
        ("curvature", "float32"),
        ("retention", "bfloat16"),
    }
    assert {row["dtype"] for row in by_letter["d"]["rows"]} == {"bfloat16", "float16"}
    assert [row["op"] for row in by_letter["e"]["rows"]] == by_letter["e"]["settings"]["operators"]
    assert all(name not in row for row in by_letter["e"]["rows"] for name in ("retention_error", "coherence_error"))
    assert all(row["peak_gb"] is None and math.isfinite(row["loss"]) for row in by_letter["g"]["rows"])
