"""Find modules in a built network and put others in their place: adapters and quantised layers are made so."""

from collections.abc import Callable, Iterator

from torch import nn


def find(network: nn.Module, wanted: Callable[[str, nn.Module], bool]) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules for which `wanted(name, module)` holds, in order of the network."""
    return ((name, module) for name, module in network.named_modules() if name and wanted(name, module))


def replace(
    network: nn.Module, wanted: Callable[[str, nn.Module], bool], build: Callable[[nn.Module], nn.Module]
) -> list[str]:
    """Replaces, in place, each wanted module by `build(module)`; the names of those replaced."""
    names = []
    for name, module in list(find(network, wanted)):
        parent_name, _, attribute = name.rpartition(".")
        parent = network.get_submodule(parent_name)
        setattr(parent, attribute, build(module))
        names.append(name)
    return names
