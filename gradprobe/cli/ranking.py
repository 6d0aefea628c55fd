"""``gradprobe ranking``: similarities at both ends of a ranking, by trained scorers and by selectors, over seeds."""

from dataclasses import replace
from typing import Any

from gradprobe.cli.probe import Request, command
from gradprobe.cli.retention import TAU, Denoiser, Rankings, Tau, TrainData
from gradprobe.cli.retention_plans import rankings_of
from gradprobe.probes.contract import Ranking, Subject, question_of
from gradprobe.probes.ranking import PROBE, RankingSettings


def _prepare(request: Request) -> None:
    """Train once with each temperature schedule."""
    taus = request.values["tau"]
    request.settings = [replace(each, tau_start=a, tau_end=b) for each in request.settings for a, b in taus]


def _answer(request: Request, progress: Any) -> list[Any]:
    """Check all questions, then answer them: the operators, and then the plans."""
    plans = [Ranking(name) for name in rankings_of(request.task, request.values["rankings"], request.budgets)]
    questions: list[tuple[Any, int, RankingSettings]] = [
        (op, k, settings) for k in request.budgets for op in request.operators.values() for settings in request.settings
    ]
    tests = dict.fromkeys((settings.images, settings.seed) for settings in request.settings)
    questions += [
        (plan, k, RankingSettings(steps=0, images=images, seed=seed))
        for k in request.budgets
        for plan in plans
        for images, seed in tests
    ]
    for operator, k, settings in questions:
        question_of(PROBE, Subject(request.task, operator, k), settings)
    return [request.ask(operator, k, settings, progress) for operator, k, settings in questions]


def _tabulate(request: Request) -> list[dict[str, Any]]:
    """Return a row for each operator or plan and budget, over all seeds."""
    from gradprobe.probes.ranking.result import over_seeds
    from gradprobe.probes.seeds import seed_groups

    groups, paths = seed_groups(request.results), {id(a.result): a.path for a in request.answers}
    request.shown["seeds"] = list(dict.fromkeys(settings.seed for settings in request.settings))
    request.questions = [{n: v for n, v in group[0].question.items() if n != "seed"} for group in groups]
    return [over_seeds(group, [paths[id(result)] for result in group]) for group in groups]


ranking = command(
    PROBE,
    extra={
        "tau": (Tau, TAU),
        "denoiser": (Denoiser, "none"),
        "rankings": (Rankings, None),
        "train_data": (TrainData, None),
    },
    replaced={"tau_start": None, "tau_end": None},
    prepare=_prepare,
    answer=_answer,
    tabulate=_tabulate,
)
