"""The network of a run as a model that is asked while it trains."""

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from polytask.inference.room import Room
from polytask.inference.scheduler import FIRST, Pace
from polytask.model import Model
from polytask.nn.paged import BLOCK

if TYPE_CHECKING:
    from polytask.models.transformer import Transformer
    from polytask.models.vision_language import VisionLanguage
    from polytask.tokenizers.text import TextTokenizer

REQUESTS = 32  # answers that are written at once


def model_in_training(network: "Transformer | VisionLanguage", tokenizer: "TextTokenizer") -> Model:
    """One long row does not end a run of hours: it is cut.

    Under torchrun every process must make the same passes, since each holds a part of the network: neither the clock
    nor the free memory of one decides what it runs next.
    """
    if not dist.is_initialized():
        return Model(network, tokenizer, truncate="right")
    fewest = torch.tensor(Room().blocks(network.decoder, REQUESTS, network.decoder.config.context_length))
    dist.all_reduce(fewest, dist.ReduceOp.MIN)
    room = Room(share=1.0, tokens=int(fewest) * BLOCK)
    model = Model(network, tokenizer, truncate="right", max_requests=REQUESTS, room=room)
    scheduler = model.engine.scheduler
    scheduler.pace, scheduler.clock = Pace(FIRST), lambda: 0.0
    model.engine.runner.steps = None  # what one process fails to record, or builds later, it would run in another way
    return model
