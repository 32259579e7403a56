"""Low-rank adapters (LoRA, Hu et al. 2021), applied to a built network from outside and stored in peft's file format.

apply(network, LoRA(rank=8), seed=0)     freezes the network and puts adapters beside its linear layers
save(folder, network), load(network, folder)    adapter_config.json and adapter_model.safetensors, as peft has them
merge(network)                           adds the adapters into the weights: the network as it was built, without cost
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polytask.errors import CheckpointError, ConfigError
from polytask.nn import surgery
from polytask.registry import nearest

PREFIX = "base_model.model."  # peft wraps a network in two modules of these names
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What peft may have set that changes the formula, and the value at which it does not.
UNSUPPORTED = {
    "use_dora": False, "bias": "none", "modules_to_save": None, "fan_in_fan_out": False, "alpha_pattern": {},
    "rank_pattern": {}, "lora_bias": False, "layer_replication": None, "trainable_token_indices": None,
    "target_parameters": None, "use_qalora": False, "use_bdlora": None,
}  # fmt: skip


@dataclass(frozen=True)
class LoRA:
    """y = W x + scale B A dropout(x), with A (rank, in) and B (out, rank); scale = alpha / rank (equation 3).

    targets: linear layers by name or end of name ("qkv", "attention.output"), or "all" for all but the output matrix.
    Experts are no linear layers: they and their routers stay as they are, frozen.
    root_scale: scale = alpha / sqrt(rank), which keeps large ranks stable (Kalajdzievski 2023; peft's rslora).
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] | str = "all"
    root_scale: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ConfigError(f"adapter: rank={self.rank!r} must be a whole number of at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"adapter: dropout={self.dropout} must be at least 0 and below 1")

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.root_scale else self.rank)


class Adapted(nn.Module):
    """A frozen linear layer and its adapter, which starts as zero."""

    def __init__(self, base: nn.Linear, lora: LoRA, generator: torch.Generator):
        super().__init__()
        self.base, self.lora = base, lora
        self.in_features, self.out_features = base.in_features, base.out_features
        where = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_A = nn.Linear(base.in_features, lora.rank, bias=False, **where)
        self.lora_B = nn.Linear(lora.rank, base.out_features, bias=False, **where)
        self.dropout = nn.Dropout(lora.dropout)
        bound = 1 / math.sqrt(base.in_features)  # as peft and the authors' code draw it
        start = torch.empty(self.lora_A.weight.shape).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            self.lora_A.weight.copy_(start)
            self.lora_B.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_B(self.lora_A(self.dropout(x))) * self.lora.scale


def adapted(network: nn.Module) -> dict[str, Adapted]:
    """The adapters of a network by the name of the layer they stand beside."""
    return {name: module for name, module in network.named_modules() if isinstance(module, Adapted)}


def apply(network: nn.Module, lora: LoRA, seed: int = 0) -> list[str]:
    """Freezes the network and adapts the layers that `lora` names, in place; their names.

    The output matrix is never one of them, since the loss reads it as a matrix. Raises ConfigError where a target
    names no layer.
    """
    output = getattr(network, "output_weight", None)
    linears = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    names = {name for name, module in linears.items() if module.weight is not output}
    if lora.targets != "all":
        targets = (lora.targets,) if isinstance(lora.targets, str) else lora.targets
        names = {name for target in targets for name in _matching(target, names)}
    return _insert(network, lora, names, seed)


def _insert(network: nn.Module, lora: LoRA, names: set[str], seed: int) -> list[str]:
    if adapted(network):
        raise ConfigError("The network has adapters already; merge them first.")
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    return surgery.replace(
        network, lambda name, _: name in names, lambda module: Adapted(_linear(module), lora, generator)
    )


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _matching(target: str, names: set[str]) -> set[str]:
    found = {name for name in names if name == target or name.endswith(f".{target}")}
    if not found:
        ends = {name.rpartition(".")[2] for name in names}
        raise ConfigError(f"adapter: no linear layer is named '{target}': {nearest(target, ends)}")
    return found


@torch.no_grad()
def merge(network: nn.Module) -> list[str]:
    """Adds every adapter into its layer's weight and takes it out, in place; the names of the layers."""

    def merged(module: nn.Module) -> nn.Module:
        assert isinstance(module, Adapted)
        module.base.weight += delta(module.lora_A.weight, module.lora_B.weight, module.lora.scale)
        return module.base

    names = surgery.replace(network, lambda _, module: isinstance(module, Adapted), merged)
    network.requires_grad_(True)
    return names


def delta(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """What an adapter adds to the weight (out, in)."""
    return (b @ a) * scale


def merged_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the adapted `network`, by its names, as the weights of the network before `apply`, adapters added in.

    Neither the network nor `weights` is changed: a trainer's `save` writes a whole model this way while it trains on.
    """
    layers = adapted(network)
    plain = {}
    for name, tensor in weights.items():
        layer, _, rest = name.rpartition(".base.")
        if layer in layers:
            if rest == "weight":
                a, b = weights[f"{layer}.lora_A.weight"], weights[f"{layer}.lora_B.weight"]
                tensor = tensor + delta(a, b, layers[layer].lora.scale)
            plain[f"{layer}.{rest}"] = tensor
        elif not any(name.startswith(f"{layer}.lora_") for layer in layers):
            plain[name] = tensor
    return plain


def save(folder: Path | str, network: nn.Module, weights: Mapping[str, Tensor] | None = None, base: str = "") -> None:
    """Puts the adapters into a folder as peft does; `base` says which model they are for, `weights` stand in for the
    network's own. Raises ConfigError where there are none."""
    layers = adapted(network)
    if not layers:
        raise ConfigError("The network has no adapters to save.")
    lora = next(iter(layers.values())).lora
    weights = network.state_dict() if weights is None else weights
    tensors = {
        f"{PREFIX}{name}.{part}.weight": weights[f"{name}.{part}.weight"].detach().to("cpu").contiguous()
        for name in layers
        for part in ("lora_A", "lora_B")
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    description = {
        "peft_type": "LORA", "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout,
        "use_rslora": lora.root_scale, "target_modules": sorted(layers), "bias": "none", "fan_in_fan_out": False,
        "task_type": None, "base_model_name_or_path": base or None, "inference_mode": True, "init_lora_weights": True,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(description, indent=1))


def load(network: nn.Module, folder: Path | str) -> list[str]:
    """Applies the adapters of a folder, written here or by peft; the names of the adapted layers.

    Raises CheckpointError where the folder holds something else, or adapters for another network.
    """
    folder = Path(folder)
    lora = _read_config(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    plain = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    suffix = ".lora_A.weight"
    layers = [name.removesuffix(suffix) for name in plain if name.endswith(suffix)]
    for name in layers:
        _check_fits(network, name, plain, lora.rank, folder)
    _insert(network, lora, set(layers), seed=0)
    state = network.state_dict()
    with torch.no_grad():
        for name, tensor in plain.items():
            if name not in state:
                raise CheckpointError(f"{folder / WEIGHTS} holds {name}, which is no part of a plain LoRA adapter.")
            state[name].copy_(tensor)
    return layers


def _read_config(folder: Path) -> LoRA:
    file = folder / CONFIG
    try:
        plain: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    if not isinstance(plain, dict):
        raise CheckpointError(f"{file} describes no adapter; copy the folder anew.")
    if plain.get("peft_type") != "LORA":
        raise CheckpointError(f"{file} describes '{plain.get('peft_type')}'; polytask reads LORA adapters.")
    for name, neutral in UNSUPPORTED.items():
        if plain.get(name, neutral) not in (neutral, None, False, [], {}):
            raise CheckpointError(
                f"{file} sets {name}={plain[name]!r}, which polytask does not have; merge it with peft."
            )
    try:
        alpha, dropout = float(plain["lora_alpha"]), float(plain.get("lora_dropout", 0.0))
        return LoRA(plain["r"], alpha, dropout, root_scale=bool(plain.get("use_rslora")))
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{file} does not describe a LoRA adapter: {error}") from None


def _check_fits(network: nn.Module, name: str, tensors: Mapping[str, Tensor], rank: int, folder: Path) -> None:
    module = dict(network.named_modules()).get(name)
    if not isinstance(module, nn.Linear):
        raise CheckpointError(f"{folder} adapts '{name}', which this network lacks: it belongs to another model.")
    shapes = {"lora_A": (rank, module.in_features), "lora_B": (module.out_features, rank)}
    for part, shape in shapes.items():
        tensor = tensors.get(f"{name}.{part}.weight")
        if tensor is None or tuple(tensor.shape) != shape:
            found = "nothing" if tensor is None else tuple(tensor.shape)
            raise CheckpointError(f"{folder}: {name}.{part} should have the shape {shape}, and has {found}.")
