"""What a run will cost, before it starts: parameters, FLOPs, peak memory by term, and time at a measured speed."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polytask.models import cost
from polytask.models.config import TransformerConfig
from polytask.models.heads import CHUNK_ELEMENTS

if TYPE_CHECKING:
    import torch

STEP_SECONDS = 0.3  # a measured step is sized to take about this long at the rate of bare matrix products
# Bytes of optimizer state for each learned number, beside the float32 weight and its gradient.
ADAM_STATE = 8  # two moments in float32 (Kingma and Ba 2014, algorithm 1)
MUON_STATE = 4  # one momentum in float32, for matrices (Jordan et al. 2024)
ADAFACTOR_STATE = 0.01  # rows' and columns' means alone, about a hundredth of a number each (Shazeer and Stern 2018)
MEASURED_PARAMETERS = 300_000_000  # larger networks are timed by their matrix products alone


@dataclass(frozen=True)
class Derived:
    """A value that nobody wrote down: what it is, what it came to, and the formula's source."""

    name: str
    value: str
    source: str


@dataclass(frozen=True)
class Plan:
    """bytes are the peak of one device; `rate` is FLOP/s, `measured` says of what; `seconds` is 0 where unmeasured."""

    parameters: Mapping[str, int]
    flops_per_token: float
    tokens: int
    memory: Mapping[str, int]
    derived: tuple[Derived, ...] = ()
    rate: float = 0.0
    measured: str = ""
    notes: tuple[str, ...] = field(default=())
    unit: str = "tokens"  # or pictures: what `tokens` counts

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def flops(self) -> float:
        """FLOPs of the whole run."""
        return self.flops_per_token * self.tokens

    @property
    def peak_bytes(self) -> int:
        return sum(self.memory.values())

    @property
    def seconds(self) -> float:
        return self.flops / self.rate if self.rate else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {
            "parameters": dict(self.parameters) | {"total": self.total_parameters},
            "tokens": self.tokens,
            "flops_per_token": self.flops_per_token,
            "flops": self.flops,
            "memory_bytes": dict(self.memory) | {"total": self.peak_bytes},
            "rate_flops_per_second": self.rate,
            "measured": self.measured,
            "seconds": self.seconds,
            "derived": [dataclasses.asdict(item) for item in self.derived],
            "notes": list(self.notes),
            "unit": self.unit,
        }


def plan(
    config: TransformerConfig, *, tokens: int, rows: int, length: int, precision: str = "float32",
    optimizer: str = "adamw", checkpointing: bool = False, average: bool = False,
    rate: tuple[float, str] = (0.0, ""), derived: tuple[Derived, ...] = (), available: int = 0,
) -> Plan:  # fmt: skip
    """The cost of training `config` on `tokens` tokens.

    rows: rows of `length` tokens that are in memory at once (a micro-batch). optimizer: a name in training.optimizers.
    average: a moving average of the weights is kept. rate: FLOP/s and what was measured (see `measured_rate`).
    available: bytes of the device, 0 where unknown; a plan beyond it carries a note that says so.
    """
    memory = memory_by_term(
        config, rows=rows, length=length, precision=precision, optimizer=optimizer,
        checkpointing=checkpointing, average=average,
    )  # fmt: skip
    parameters = {name: count for name, count in cost.parameters_by_part(config).items() if count}
    made = Plan(parameters, cost.flops_per_token(config, length), tokens, memory, derived, *rate)
    return beyond(made, available)


def beyond(made: Plan, available: int) -> Plan:
    """The same with a note where it needs more than the device has, 0 where that is unknown."""
    return dataclasses.replace(made, notes=_notes(made, available))


def memory_by_term(
    config: TransformerConfig, *, rows: int, length: int, precision: str = "float32", optimizer: str = "adamw",
    checkpointing: bool = False, average: bool = False,
) -> dict[str, int]:  # fmt: skip
    """Peak bytes of a training step by what they hold; python, torch and the loader come on top."""
    count = cost.parameters(config)
    memory = {
        "weights": 4 * count,
        "gradients": 4 * count,
        "optimizer": optimizer_bytes(config, optimizer),
        "activations": cost.activation_bytes(config, rows, length, precision, checkpointing),
        "logits chunk": logits_bytes(config, rows * length, precision),
    }
    if copies := cost.copy_bytes(config, precision, checkpointing):
        memory["weights in low precision"] = copies
    if average:
        memory["average"] = 4 * count
    return memory


def state_bytes(optimizer: str) -> float:
    """Bytes of state for a learned number, where no layer is a stack of matrices."""
    return {"adafactor": 4 * ADAFACTOR_STATE, "muon": MUON_STATE}.get(optimizer, ADAM_STATE)


def optimizer_bytes(config: TransformerConfig, optimizer: str) -> int:
    """State of the optimizer: AdamW's everywhere, or Muon's one momentum for the matrices inside of blocks."""
    count = cost.parameters(config)
    if optimizer == "adafactor":
        return int(4 * ADAFACTOR_STATE * count)
    if optimizer != "muon":
        return ADAM_STATE * count
    matrices = cost.hidden_parameters(config)
    return MUON_STATE * matrices + ADAM_STATE * (count - matrices)


def logits_bytes(config: TransformerConfig, tokens: int, precision: str) -> int:
    """What the chunked loss holds: one chunk of logits in float32, the output matrix's gradient, and that of its input.

    In lower precision the chunk and the matrix exist a second time.
    """
    vocabulary, low = config.vocab_size, cost.PRECISION_BYTES[precision]
    chunk = min(max(64, CHUNK_ELEMENTS // vocabulary), tokens)
    cast = 0 if precision == "float32" else low * (2 * chunk * vocabulary + vocabulary * config.dim)
    return 4 * chunk * vocabulary + cast + 4 * vocabulary * config.dim + 4 * tokens * config.dim


def _notes(made: Plan, available: int) -> tuple[str, ...]:
    if not available or made.peak_bytes <= available:
        return ()
    largest = max(made.memory, key=lambda name: made.memory[name])
    remedy = {
        "activations": "use a smaller micro-batch, shorter rows or activation checkpointing",
        "logits chunk": "use a smaller vocabulary",
    }.get(largest, "use a smaller model")
    return (
        f"This needs {made.peak_bytes / 2**30:.1f} GiB but the device has {available / 2**30:.1f} GiB; "
        f"most of it are {largest}: {remedy}.",
    )


def measured_rate(
    config: TransformerConfig, rows: int, length: int, precision: str, device: "torch.device"
) -> tuple[float, str]:
    """(FLOP/s, of what) of real training steps, forward and backward, on this machine within a few seconds.

    Two layers stand for all of them, so that a large network is timed as well; one whose layers are too large to try
    is rated by its matrix products, which is the most that it can reach.
    """
    from polytask.runtime import matmul_rate, stopwatch

    few = dataclasses.replace(config, layers=min(config.layers, 2), encoder_layers=min(config.encoder_layers, 2))
    fastest = matmul_rate(device, precision)
    if cost.parameters(few) > MEASURED_PARAMETERS:
        return fastest, "matrix products alone; expect half of it"
    flops_per_row = cost.flops_per_token(few, length) * length * (2 if config.encoder_layers else 1)
    rows = max(1, min(rows, int(fastest * STEP_SECONDS / flops_per_row)))
    # What two layers leave out are more layers of the same kind, so the rate carries over but for the last product.
    seconds = stopwatch(_step(few, rows, length, precision, device), device, seconds=1.0, most=20)
    return flops_per_row * rows / seconds, "training steps of two layers"


def _step(config: TransformerConfig, rows: int, length: int, precision: str, device: "torch.device") -> Any:
    import torch

    from polytask.models.heads import cross_entropy
    from polytask.models.transformer import Transformer
    from polytask.nn.cache import Context

    network = Transformer(config).initialize(0).to(device).train()
    ids = torch.randint(config.vocab_size, (rows, length), device=device)
    positions = torch.arange(length, device=device).expand(rows, length)
    weights = torch.ones(rows, length, device=device)
    dtype = getattr(torch, precision)

    def step() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=precision in ("bfloat16", "float16")):
            memory = network.encode(ids, Context(positions)) if config.encoder_layers else None
            hidden = network(ids, Context(positions, memory=memory))
            loss, _ = cross_entropy(hidden, network.head, ids, weights)
        network.zero_grad()
        loss.backward()

    return step


def duration(seconds: float) -> str:
    """Seconds as people say them: "40 s", "12 min", "3.4 h", "25 days", "340 years"."""
    for limit, unit, name in _UNITS:
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 10 and name not in ("s", "min") else f"{value:.0f} {name}"
    return f"{seconds / _YEAR:,.0f} years"


_DAY, _YEAR = 86_400, 365 * 86_400
_UNITS = ((90, 1, "s"), (5400, 60, "min"), (2 * _DAY, 3600, "h"), (2 * _YEAR, _DAY, "days"))  # (below, unit, name)
