"""A run's model that is asked while several processes train it."""

import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import multiprocessing, nn

from polytask import runtime
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.run.watched import model_in_training
from polytask.training.parallel.blocks import blocks_of
from polytask.training.parallel.data import World, shard, unsharded
from tests.inference.networks import TOKENIZER, network, prompts


def ask(rank, folder):
    """The second process has little memory left, and a clock by which it is slow."""
    torch.set_num_threads(1)
    words = {"rank": rank, "world_size": 2, "timeout": timedelta(seconds=30)}
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", **words)
    if rank == 1:
        runtime.free_bytes = lambda device="cpu": 1_000_000
        count, time.perf_counter = time.perf_counter, lambda: 1000 * count()
    net = network()
    module = nn.Sequential(net)
    shard(module, blocks_of(net), World(rank, 2))
    with torch.no_grad(), unsharded(module):
        model = model_in_training(net, TOKENIZER)
        assert model.engine.runner.steps is None
        requests = [Request(ids, Sampling(max_tokens=5)) for ids in prompts(24, least=40, most=60)]
        answers = [answer.text for (answer,) in model.engine.run(requests)]
    said = [None, None]
    dist.all_gather_object(said, (model.engine.pool.total, model.engine.scheduler.pace.tokens, answers))
    assert said[0] == said[1]
    dist.destroy_process_group()
    (folder / str(rank)).touch()


def test_processes_that_differ_in_memory_and_speed_make_the_same_passes(tmp_path):
    multiprocessing.spawn(ask, (tmp_path,), nprocs=2)
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != "meeting") == ["0", "1"]
