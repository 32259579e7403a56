"""What `polytask doctor` reports: the machine's facts and whether programs of a model can be run safely."""

from polytask import runtime
from polytask.runtime import Fact


def facts() -> list[Fact]:
    """All facts, the ones that need a look included."""
    from polytask.nn.kernels.library import LOADER
    from polytask.tasks.sandbox import available

    means = available()
    sandbox = Fact(
        "code sandbox",
        "none" if means.missing else "seccomp, Landlock" + (", namespaces" if means.namespaces else ""),
        not means.missing,
        f"Scoring the task `code` needs: {'; '.join(means.missing)}.",
    )
    kernels = "ready" if LOADER.get() else f"torch multiplies alone: {LOADER.reason}"
    return [*runtime.facts(), Fact("decoding kernels", kernels), sandbox]
