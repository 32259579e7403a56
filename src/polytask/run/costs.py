"""What a network for pictures costs a picture: counted on the network itself, where nothing is allocated."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polytask.models import built, cost
from polytask.models.classifier import ClassifierConfig
from polytask.models.clip import CLIPConfig
from polytask.models.diffusion import DiffusionConfig
from polytask.models.dvae import AutoencoderConfig
from polytask.models.networks import Picturing
from polytask.training.parallel.blocks import blocks_of

if TYPE_CHECKING:
    from polytask.models.prior import PriorConfig

BACKWARD = 2  # a way back costs two passes


def inputs(config: Picturing, rows: int, text_length: int, crop: int | None = None) -> tuple[Any, dict[str, Tensor]]:
    """The network that is trained, a text encoder apart, and inputs of `rows` pictures, whose shapes alone matter.

    crop: the side of what diffusion learns from, a part of each picture; None means all of it.
    """
    with torch.device("meta"):
        if isinstance(config, AutoencoderConfig | ClassifierConfig):
            return config, {"pixels": torch.empty(rows, 3, config.image, config.image)}
        if isinstance(config, CLIPConfig):
            side = config.vision.image
            ids = torch.zeros(rows, text_length, dtype=torch.int64)
            return config, {"pixels": torch.empty(rows, 3, side, side), "ids": ids}
        if isinstance(config, DiffusionConfig):
            return config.unet, _of_unet(config, rows, text_length, crop)
        return config, _of_prior(config, rows)


def _of_unet(config: DiffusionConfig, rows: int, text_length: int, crop: int | None) -> dict[str, Tensor]:
    unet, side = config.unet, min(crop or config.unet.pixels, config.unet.pixels)
    given = {"x": torch.empty(rows, 3, side, side), "t": torch.zeros(rows, dtype=torch.int64)}
    if unet.text:
        given["text"] = torch.empty(rows, text_length, unet.text)
    if unet.pooled:
        given["pooled"] = torch.empty(rows, unet.pooled)
    if unet.low:
        low = config.low_pixels * side // unet.pixels
        given["low"] = torch.empty(rows, 3, low, low)
    return given


def _of_prior(config: "PriorConfig", rows: int) -> dict[str, Tensor]:
    text = torch.empty(rows, config.text_length, config.text_dim)
    embeddings = {name: torch.empty(rows, config.embed) for name in ("x", "embedding")}
    return {**embeddings, "t": torch.zeros(rows, dtype=torch.int64), "text": text}


def flops_of(config: Picturing, text_length: int, crop: int | None = None) -> float:
    """FLOPs of one picture in training, those of its caption's encoder included and of frozen networks left out."""
    network, given = inputs(config, 1, text_length, crop)
    total = (1 + BACKWARD) * float(built.flops(network, **given))
    if isinstance(config, DiffusionConfig) and config.text is not None:
        text = text_length * cost.flops_per_token(config.text, text_length)
        total += text / (1 + BACKWARD) if config.frozen_text else text
    return total


def memory_of(
    config: Picturing, rows: int, text_length: int, state: float, average: bool, crop: int | None = None, *,
    precision: str = "float32", checkpointing: bool = False,
) -> dict[str, int]:  # fmt: skip
    """Peak bytes of a training step by what they hold. state: bytes of the optimizer for a learned number."""
    network, given = inputs(config, rows, text_length, crop)
    count = built.parameters(config)
    memory = {"weights": 4 * count, "gradients": 4 * count, "optimizer": int(state * count)}
    again = blocks_of if checkpointing else None
    memory["activations"] = built.activation_bytes(network, lower=precision == "bfloat16", again=again, **given)
    if isinstance(config, DiffusionConfig) and config.text is not None and not config.frozen_text:
        memory["activations"] += cost.activation_bytes(config.text, rows, text_length, precision, checkpointing)
    return memory | ({"average": 4 * count} if average else {})


def measured(
    config: Picturing, rows: int, text_length: int, precision: str, device: torch.device, crop: int | None = None
) -> tuple[float, str]:
    """(FLOP/s, of what) of passes forward and backward over as many pictures as a second or so allows."""
    from polytask.runtime import matmul_rate, stopwatch

    each, fastest = flops_of(config, text_length, crop), matmul_rate(device, precision)
    rows = max(1, min(rows, int(0.3 * fastest / each)))
    made, given = inputs(config, rows, text_length, crop)
    network = made.build().initialize(0).to(device).train()
    real = {name: torch.zeros(value.shape, dtype=value.dtype, device=device) for name, value in given.items()}

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            output = network(**real)
        network.zero_grad()
        (output[0] if isinstance(output, tuple) else output).float().sum().backward()

    seconds = stopwatch(step, device, seconds=1.0, most=10)
    return (1 + BACKWARD) * built.flops(made, **given) / seconds, f"training passes over {rows} pictures"
