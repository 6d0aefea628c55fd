"""Steps of the campaign on a GPU, in the order of their worth; a module each, imported when its step runs."""

from gpu_steps.step import Step

STEPS = (
    Step("a", "tests", "GPU tests", "gpu_steps.gpu_tests", bound=90, least=20),
    Step("b", "softtopk", "soft top-K beside its peers", "gpu_steps.solver", bound=40, least=10),
    Step("c", "probes", "probes over their floor", "gpu_steps.probes_over_floor", bound=100, least=25),
    Step("d", "table4", "Table 4, LLaVA-1.5-7B", "gpu_steps.table4", bound=80, least=25),
    Step("e", "operators", "operators by seeds", "gpu_steps.operators", bound=240, least=20),
    Step("f", "table5", "Table 5, photos-vlm", "gpu_steps.table5", bound=120, least=20),
    Step("g", "memory", "memory of a 7B training step", "gpu_steps.memory", bound=60, least=25),
)
