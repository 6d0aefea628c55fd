"""The time of a comparison is kept, whatever the questions really take: by a clock that only the questions move."""

from types import SimpleNamespace

import pytest

from gradprobe.comparison import schedule
from gradprobe.comparison.agreed import Agreed, left_lines, read_note, write_note
from gradprobe.comparison.schedule import Schedule, Work, label_of
from gradprobe.comparison.sizes import RANKINGS, SIZES, Times, estimate, question_seconds, shared_seconds

OPS = ("mine", "gumbel", "scale")
TIMES = {op: Times(gradient=0.01 * (i + 1), forward=0.004, deployed=0.001) for i, op in enumerate(OPS)}
STEPS = 40
PROBES = ("coherence", "landscape", "fidelity", "equivalence", "retention", "cost")
THREADS = 2
WHOLE = {name: estimate(size, TIMES, THREADS) for name, size in SIZES.items()}


class World:
    """Questions that take a factor of what is expected of them, and a clock that they alone move."""

    def __init__(self, monkeypatch, slow=lambda probe: 1.0):
        self.now, self.slow, self.answered, self.have = 0.0, slow, [], set()
        self.stops = None
        monkeypatch.setattr(schedule, "clock", lambda: self.now)

    def asked(self, size, seeds=None):
        every = []
        for probe in PROBES:
            count = SIZES[size].seeds if probe == "retention" else 1
            for seed in range(1, (seeds or count) + 1):
                every += [self.question(probe, f"ranked:{i}", seed, size) for i in range(6) if probe == "retention"]
                every += [self.question(probe, op, seed, size) for op in OPS]
        return every

    def question(self, probe, op, seed, size):
        return SimpleNamespace(name=probe), SimpleNamespace(name=op), SimpleNamespace(seed=seed, size=size)

    def further(self, size, count):
        return [self.question("retention", op, count, size) for op in OPS]

    def name(self, question):
        return label_of(question), question[2].size

    def answer(self, question, coming):
        probe, subject, settings = question
        if len(self.answered) == self.stops:
            raise KeyboardInterrupt
        if self.name(question) not in self.have:
            ranked, size = subject.name.startswith("ranked:"), SIZES[settings.size]
            seconds = RANKINGS / 6
            if not ranked:
                seconds = question_seconds(probe.name, size, TIMES[subject.name], TIMES, THREADS)
            if subject.name == OPS[0] and probe.name == "fidelity":
                seconds += shared_seconds("fidelity", size, TIMES, THREADS)
            for step in range(STEPS):  # of progress
                self.now += seconds * self.slow("ranked" if ranked else probe.name) / STEPS
                self.progress(label_of(question), step + 1, STEPS)
        self.have.add(self.name(question))
        self.answered.append(self.name(question))

    def run(self, budget, agreed=None, seeds=None):
        agreed = Agreed() if agreed is None else agreed
        began, self.answered = self.now, []
        work = Work(
            lambda size: self.asked(size, seeds), self.further, lambda q: self.name(q) in self.have, self.answer
        )
        kept = Schedule(budget, SIZES, TIMES, THREADS, seeds, began)
        self.progress = kept.watched(None)
        kept.answer(work, agreed)
        return agreed, self.now - began


SPEEDS = {
    "as expected": lambda probe: 1.0,
    "slower": lambda probe: 2.5,
    "faster": lambda probe: 0.3,
    "retention is dear": lambda probe: 2.0 if probe == "retention" else 0.8,
    "rankings are dear": lambda probe: 4.0 if probe == "ranked" else 0.8,
    "fidelity is dear": lambda probe: 2.0 if probe == "fidelity" else 0.8,
}


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("share", [0.5, 0.8, 1.1, 2.0, 5.0, 12.0, 60.0])
def test_no_budget_is_exceeded_by_a_fifth(monkeypatch, speed, share):
    world, budget = World(monkeypatch, SPEEDS[speed]), share * WHOLE["tiny"]
    agreed, taken = world.run(budget)
    assert 0 < taken <= 1.2 * budget
    assert agreed.done and agreed.spent == pytest.approx(taken)
    assert f"{schedule.time_in_words(taken)} taken" in agreed.lines[-1]


@pytest.mark.parametrize("times", [20.0, 60.0])
@pytest.mark.parametrize("probe", ["retention", "fidelity", "landscape"])
@pytest.mark.parametrize("share", [1.3, 3.0])
def test_a_question_that_takes_many_times_what_is_expected_is_stopped_and_named(monkeypatch, share, probe, times):
    world, budget = World(monkeypatch, lambda name: times if name == probe else 1.0), share * WHOLE["tiny"]
    agreed, taken = world.run(budget)
    assert taken <= 1.2 * budget
    stopped = [label for label in agreed.left if label.startswith(probe)]
    assert stopped and not set(agreed.left) & {label for label, _ in world.answered}
    assert "all would take about" in agreed.lines[-1]
    again, more = world.run(budget, agreed)  # the same command: the same answers, and no time
    assert more == 0 and again.left == agreed.left


def test_a_seed_of_retention_that_is_stopped_leaves_its_operators_out(monkeypatch):
    world = World(monkeypatch)
    late = {"of": 0.0}
    world.slow = lambda probe: 30.0 if late["of"] else 0.5
    further = world.further

    def then_slow(size, count):
        late["of"] = float(count)
        return further(size, count)

    world.further = then_slow
    agreed, taken = world.run(1.3 * WHOLE["tiny"])
    assert agreed.trainings and taken <= 1.2 * 1.3 * WHOLE["tiny"]
    seed = f"seed {agreed.trainings[-1]}"
    answered = [label for label, _ in world.answered if label.startswith("retention") and label.endswith(seed)]
    assert sorted([*answered, *agreed.left]) == sorted(f"retention of {op}, {seed}" for op in OPS) and agreed.left
    _, more = world.run(1.3 * WHOLE["tiny"], agreed)
    assert more == 0


def test_answers_that_are_read_are_never_stopped(monkeypatch):
    world = World(monkeypatch)
    kept = Schedule(10.0, SIZES, TIMES, THREADS)
    told = []
    report = kept.watched(lambda *each: told.append(each))
    world.now = 1e6
    report("coherence", 1, 2)
    assert told == [("coherence", 1, 2)]


def test_time_that_suffices_leaves_nothing_out_and_buys_more(monkeypatch):
    order, before = list(SIZES), -1
    for share in (1.2, 4.0, 12.0, 100.0):
        agreed, _ = World(monkeypatch).run(share * WHOLE["tiny"])
        assert not agreed.left
        sizes = set(agreed.sizes.values())
        assert len(sizes) == 1  # as expected: nothing to plan anew
        assert order.index(*sizes) >= before
        before = order.index(*sizes)
    assert before == len(order) - 1


def test_what_the_verdict_needs_is_asked_first_and_the_rest_is_left_out_and_named(monkeypatch):
    world = World(monkeypatch)
    agreed, _ = world.run(0.6 * WHOLE["tiny"])
    probes = list(dict.fromkeys(label.partition(" of ")[0] for label, _ in world.answered))
    assert probes[:1] == ["retention"] and agreed.left
    (told,) = left_lines(agreed)
    lost = {label.partition(" of ")[0] for label in agreed.left}
    assert all(f"{probe} (3 questions)" in told for probe in lost) and "give a longer --budget" in told
    assert not lost & set(probes)  # all operators of a probe, or none
    assert "all would take about" in agreed.lines[-1]
    assert left_lines(Agreed()) == []


def test_slow_rankings_do_not_make_trainings_look_slow(monkeypatch):
    world = World(monkeypatch, SPEEDS["rankings are dear"])
    world.run(1.1 * WHOLE["tiny"])
    trained = [label for label, _ in world.answered if label.startswith("retention of") and "ranked" not in label]
    assert len(trained) >= len(OPS)


def test_slow_questions_make_those_that_follow_smaller_and_it_is_said(monkeypatch):
    world = World(monkeypatch, SPEEDS["retention is dear"])
    agreed, _ = world.run(1.3 * WHOLE["medium"])
    order = list(SIZES)
    sizes = [order.index(agreed.sizes[probe]) for probe in agreed.sizes]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert any("instead of" in line and "times as long as expected" in line for line in agreed.lines)
    assert "(" in agreed.size and agreed.size.startswith(order[sizes[0]])


def test_time_that_is_left_trains_further_seeds_but_not_beyond_those_that_decide(monkeypatch):
    for share in (1.3, 2.4):
        world = World(monkeypatch, SPEEDS["faster"])
        agreed, taken = world.run(share * WHOLE["tiny"])
        seeds = sorted({label.rpartition(" ")[2] for label, _ in world.answered if label.startswith("retention")})
        assert agreed.trainings and seeds == [str(i) for i in range(1, len(seeds) + 1)] and len(seeds) <= 5
        assert "further seeds of retention" in agreed.lines[-1]
        assert taken <= 1.2 * share * WHOLE["tiny"]
    agreed, _ = World(monkeypatch, SPEEDS["faster"]).run(1.3 * WHOLE["tiny"], seeds=2)
    assert not agreed.trainings  # seeds that were named are those that are asked


@pytest.mark.parametrize("stops", [0, 1, 4, 11])
def test_what_was_stopped_goes_on_within_what_is_left(monkeypatch, stops, tmp_path):
    budget = 1.3 * WHOLE["small"]
    whole, _ = World(monkeypatch).run(budget)
    world, agreed = World(monkeypatch), Agreed()
    world.stops = stops
    with pytest.raises(KeyboardInterrupt):
        world.run(budget, agreed)
    assert not agreed.done and agreed.spent == pytest.approx(world.now)
    write_note(tmp_path / "note.json", {}, agreed)
    world.stops, spent = None, world.now
    again, taken = world.run(budget, read_note(tmp_path / "note.json"))
    assert again.sizes == whole.sizes and again.left == whole.left
    assert spent + taken <= 1.2 * budget
    assert again.spent == pytest.approx(spent + taken)


def test_what_was_agreed_is_asked_again_without_a_clock(monkeypatch, tmp_path):
    world = World(monkeypatch, SPEEDS["slower"])
    agreed, _ = world.run(1.1 * WHOLE["tiny"])
    first, path = sorted(world.answered), tmp_path / "note.json"
    write_note(path, {"k": 3}, agreed)
    noted = read_note(path)
    world.have.clear()
    world.slow = lambda probe: 100.0
    again, _ = world.run(1.1 * WHOLE["tiny"], noted)
    assert sorted(world.answered) == first
    assert (again.lines, again.left, again.sizes) == (agreed.lines, agreed.left, agreed.sizes)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"agreed": {}}', '{"agreed": 3}', '{"size": "tiny"}'])
def test_a_note_that_means_nothing_is_none(tmp_path, text):
    (tmp_path / "note.json").write_text(text)
    assert read_note(tmp_path / "note.json") is None
    assert read_note(tmp_path / "gone.json") is None


def test_stored_answers_cost_nothing(monkeypatch):
    world = World(monkeypatch)
    budget = 1.2 * WHOLE["tiny"]
    world.have |= {world.name(question) for question in world.asked("tiny")}
    agreed, taken = world.run(budget)
    assert not agreed.left and taken <= budget
