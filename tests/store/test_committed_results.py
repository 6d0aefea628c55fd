"""The answers that come with the project: each is whole, and lies where its question is looked for."""

from pathlib import Path

from test_results import names_in

from gradprobe.store.archive import read
from gradprobe.store.record import key_of
from gradprobe.store.results import Store
from gradprobe.store.zips import unpacked

RESULTS = Path(__file__).parents[2] / "results"


def test_every_committed_answer_is_whole_and_named_after_its_question():
    store = Store(RESULTS)
    paths = store.paths()
    assert len(paths) >= 702
    assert names_in(RESULTS) == sorted(["leaderboard.json", *(f"{label}.npz" for label in paths)])
    for label, path in paths.items():
        run, members = read(path)  # its checksums hold
        assert label == f"{run['probe']}/{key_of(run['question'])}"
        assert store.find(run["question"]) == path
        assert unpacked(members, run["arrays"]).keys() == run["arrays"].keys()
