"""Questions shared with workers: each goes out once, and what workers could not answer is not tried again here."""

from needle import Away, Needle

from gradprobe.advice.asking import Means, Question, Stage, answers
from gradprobe.errors import GradprobeError
from gradprobe.parallel import driver
from gradprobe.probes.contract import Resources, Subject
from gradprobe.probes.retention import PROBE, RetentionSettings
from gradprobe.store.results import Store, key_of

STAGE = Stage("trainings", 10.0, 5.0, 20.0)
WHERE = {"device": "cpu"}


def questions():
    settings = [RetentionSettings(steps=2, batch_size=2, images=4, seed=seed) for seed in (1, 2)]
    return [Question(PROBE, Subject(Needle(), Away(), 2), each, WHERE) for each in settings]


def test_alone_each_question_is_asked_here_and_the_progress_ends(tmp_path):
    told = []
    means = Means((Store(tmp_path),), Resources(workers=1, progress=lambda *step: told.append(step)))
    results = answers(questions(), means, STAGE)
    assert [r.question["seed"] for r in results] == [1, 2]
    assert [step[1:] for step in told if step[0] == "trainings"] == [(0, 2), (1, 2), (2, 2)]
    assert [step[1:] for step in told if step[0].startswith("all")] == [(10, 20), (12, 20), (15, 20)]


def test_workers_get_all_questions_and_their_reasons_stand(tmp_path, monkeypatch):
    given = []

    def answer_all(asked, stores, crew, progress=None, force=False):
        given.extend(asked)
        assert (crew.jobs, crew.cluster) == (2, None)
        return {key_of(asked[1].question): "the worker was killed three times"}

    monkeypatch.setattr(driver, "answer_all", answer_all)
    first, second = answers(questions(), Means((Store(tmp_path),), Resources(workers=1), jobs=2), STAGE)
    assert [each.question["seed"] for each in given] == [1, 2]
    assert all(each.where == WHERE for each in given)
    assert given[0].question == first.question  # the worker left it, so it was asked here
    assert isinstance(second, GradprobeError) and "killed three times" in str(second)
    assert len(list(tmp_path.glob("retention/*.npz"))) == 1
