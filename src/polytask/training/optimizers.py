"""Which parameter is moved by which rule, and the optimizer's state by parameter name."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from polytask.errors import CheckpointError
from polytask.nn.matrices import matrices
from polytask.registry import Registry
from polytask.training.adafactor import Adafactor
from polytask.training.muon import Muon
from polytask.training.parallel.tensors import like

if TYPE_CHECKING:
    from polytask.training.config import TrainingConfig

Named = list[tuple[str, nn.Parameter]]


class Optimizer:
    """One or more torch optimizers that step together; state goes by parameter name, so files outlive their order."""

    def __init__(self, parts: list[torch.optim.Optimizer], named: Named):
        self.parts = parts
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in named}

    def step(self, lr: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
        increment_version(list(self._names))  # fused kernels count no write, by which others know what has changed

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Tensors named "PARAMETER|KEY", such as "norm.weight|exp_avg"."""
        return {
            f"{self._names[parameter]}|{key}": torch.as_tensor(value)
            for part in self.parts
            for parameter, values in part.state.items()
            for key, value in values.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `state`. Raises CheckpointError where the state belongs to other parameters."""
        owners = {
            self._names[p]: (part, p) for part in self.parts for group in part.param_groups for p in group["params"]
        }
        for part in self.parts:
            part.state.clear()
        for label, tensor in tensors.items():
            name, _, key = label.rpartition("|")
            if name not in owners:
                raise CheckpointError(
                    f"The optimizer state holds '{name}', which this network does not train. "
                    "Resume with the recipe that the run began with."
                )
            part, parameter = owners[name]
            part.state[parameter][key] = like(tensor, parameter)


def decay_groups(named: Named, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors (norms, biases) do not (Brown et al. 2020 as ported by nanoGPT)."""
    matrices = [p for _, p in named if p.ndim >= 2]
    vectors = [p for _, p in named if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(network: nn.Module, named: Named, config: "TrainingConfig") -> list[torch.optim.Optimizer]:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), in one fused kernel a step."""
    groups = decay_groups(named, config.weight_decay)
    return [torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)]


def hidden_matrices(network: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """Matrices but the output's, which Muon is made for (Jordan et al. 2024), and their parts."""
    output = getattr(network, "output_weight", None)
    return {matrix.weight: matrix.parts for matrix in matrices(network) if matrix.weight is not output}


def muon(network: nn.Module, named: Named, config: "TrainingConfig") -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices; AdamW, at the same learning rate, for embeddings, norms, biases and the output."""
    hidden = hidden_matrices(network)
    chosen: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for _, parameter in named:
        if parameter in hidden:
            chosen.setdefault(hidden[parameter], []).append(parameter)
    rest = [(name, parameter) for name, parameter in named if parameter not in hidden]
    parts: list[torch.optim.Optimizer] = []
    if chosen:
        dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        groups = [{"params": alike, "parts": rows} for rows, alike in chosen.items()]
        parts.append(Muon(groups, config.lr, config.weight_decay, config.momentum, dtype))
    return parts + (adamw(network, rest, config) if rest else [])


def adafactor(network: nn.Module, named: Named, config: "TrainingConfig") -> list[torch.optim.Optimizer]:
    """Adafactor for all; its rate is relative to the size of each parameter, so 0.01 is a usual one."""
    return [Adafactor(decay_groups(named, config.weight_decay), config.lr)]


OPTIMIZERS = Registry("optimizer", {"adamw": adamw, "muon": muon, "adafactor": adafactor})


def build_optimizer(network: nn.Module, config: "TrainingConfig") -> Optimizer:
    """The optimizer of `config` over the parameters that require a gradient."""
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    return Optimizer(OPTIMIZERS.get(config.optimizer)(network, named, config), named)
