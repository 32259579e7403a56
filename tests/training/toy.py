"""A network and data small enough for tests, and a run of them as a program, to be killed or started several times."""

import json
import sys
from pathlib import Path

import torch

from polytask.data.batch import Batch
from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.nn.attention import Attention
from polytask.nn.cache import Context
from polytask.nn.experts import Experts
from polytask.nn.feedforward import MLP
from polytask.nn.position import Grid
from polytask.training.callbacks import Callback
from polytask.training.config import TrainingConfig
from polytask.training.logs import read_log
from polytask.training.objectives.language import LanguageModelling
from polytask.training.parallel.data import World, joined
from polytask.training.trainer import Trainer

VOCABULARY, LENGTH, ROWS = 11, 12, 4


def network(dropout=0.0, encoder_layers=0, tied=True, dtype=torch.float32, feedforward=MLP(32), grid=None):  # noqa: B008 a frozen value
    config = TransformerConfig(
        VOCABULARY, LENGTH, 2, 16, Attention(2), feedforward, dropout=dropout, encoder_layers=encoder_layers, tied=tied,
        grid=grid,
    )  # fmt: skip
    return Transformer(config).initialize(seed=1).to(dtype)


def rows(step, count=ROWS):
    """Rows that count upwards from a random start, two documents in each, with weights of several sizes."""
    g = torch.Generator().manual_seed(step)
    ids = (torch.randint(VOCABULARY, (count, 1), generator=g) + torch.arange(LENGTH + 1)) % VOCABULARY
    first = LENGTH // 2
    positions = torch.cat([torch.arange(first), torch.arange(LENGTH - first)]).expand(count, -1)
    documents = torch.tensor([1] * first + [2] * (LENGTH - first)).expand(count, -1)
    weights = torch.randint(0, 3, (count, LENGTH), generator=g).float()
    weights[:, 0] = 1.0
    return Batch(
        ids[:, :-1],
        positions,
        documents,
        ids[:, 1:],
        weights,
        (torch.arange(count) % 2)[:, None].expand(count, ids.shape[1] - 1),
    )


def part(batch, start, stop=None, by=1):
    chosen = slice(start, stop, by)
    names = ("ids", "positions", "documents", "targets", "weights", "sources")
    return Batch(*(getattr(batch, name)[chosen] for name in names))


def batches(world=World(), accumulate=1):  # noqa: B008 a frozen value
    """The rows of a step, split over batches and processes."""
    return lambda step, micro: part(rows(step), micro * world.size + world.rank, None, accumulate * world.size)


def trainer(out, config, net=None, world=World(), **words):  # noqa: B008 a frozen value
    words.setdefault("sources", ("even", "odd"))
    return Trainer(
        net or network(), LanguageModelling(), batches(world, config.accumulate), config, out, world=world, **words
    )


class Steps(Callback):
    """Says how far the run is, so that a test can kill it at a step of its choice."""

    def on_step(self, step):
        print(step, flush=True)


def main(out, words):
    """words: JSON of TrainingConfig's fields, and of `resume`, `dropout`, `evaluate`, `experts` and `grid`."""
    words = json.loads(words)
    resume, dropout, evaluate = words.pop("resume", False), words.pop("dropout", 0.1), words.pop("evaluate", False)
    feedforward = (MLP(32), Experts(4, 32, capacity=1.0)) if words.pop("experts", False) else MLP(32)
    grid = Grid(5, 2, 2) if words.pop("grid", False) else None
    config = TrainingConfig(**{"steps": 40, "lr": 1e-2, "log_every": 1, "save_every": 5, **words})
    torch.set_num_threads(1)
    with joined() as world:
        net, extra = network(dropout, feedforward=feedforward, grid=grid), {}
        if evaluate:
            context = Context(rows(0).positions, rows(0).documents)
            extra["validation"] = {"rows": lambda: [batches(world)(1000, 0)]}
            extra["evaluate"] = lambda step: {"size": float(net(rows(0).ids, context).norm())}
        result = trainer(Path(out), config, net, world, callbacks=[Steps()], **extra).run(resume)
        if world.first:
            print(type(result).__name__, result.message, flush=True)


def losses(out):
    """Every figure of a run's log that does not depend on the clock."""
    lines = read_log(Path(out) / "log.jsonl")
    return [{name: line[name] for name in line if name not in ("tokens_per_second", "mfu")} for line in lines]


if __name__ == "__main__":
    main(*sys.argv[1:])
