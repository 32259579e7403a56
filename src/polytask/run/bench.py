"""polytask bench: how fast a model answers on this machine, beside its memory's speed and beside other engines."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polytask import runtime
from polytask.errors import ConfigError
from polytask.inference.engine import Engine
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.model import Model
from polytask.models.transformer import Transformer
from polytask.nn.experts import ExpertsLayer
from polytask.nn.kernels.library import LOADER
from polytask.nn.position import PositionEmbedding
from polytask.nn.quant import Int4Linear, Int8Linear
from polytask.run import peers
from polytask.run.gguf import of_network
from polytask.run.peers import Speed
from polytask.tasks import Text
from polytask.tokenizers.encode import split_prompt

CPU = torch.device("cpu")
PROBE = 1 << 30  # bytes, more than any cache
PEERS = ("hf", "llama.cpp")


@dataclass(frozen=True)
class Bench:
    """kind: the precision of the weights. bytes_per_token: weights that one token reads. bandwidth: bytes a second
    that its memory gives. kernels: why torch multiplies alone, or "". peers: by name."""

    kind: str
    prompt: int
    new: int
    threads: int
    own: Speed
    bytes_per_token: int
    bandwidth: float
    kernels: str
    peers: dict[str, Speed]

    @property
    def share(self) -> float:
        """Of what the memory allows: above 1 where weights stay in a cache."""
        return self.own.decoding * self.bytes_per_token / self.bandwidth


def bench(path: str, *, prompt: int, new: int, tries: int, against: str | None, **words: Any) -> Bench:
    """Measures the model of a checkpoint folder; `words` as `Model.load` takes them.

    Raises ConfigError where the peer is unknown, not installed or does not have the network.
    """
    if against not in (None, *PEERS):
        raise ConfigError(f"--against: '{against}' is none of {', '.join(PEERS)}.")
    if against:
        peers.found("transformers" if against == "hf" else "llama_cpp")
    threads = runtime.prepare(huge_pages=True)
    model = Model.load(path, **words)
    context = model.config.context_length
    if prompt + new > context or prompt < 1 or new < 2 or tries < 1:
        raise ConfigError(
            f"--prompt {prompt} and --new {new} must be at least 1 and 2, and fit the model's context of {context} "
            "together; --tries must be at least 1."
        )
    device = model.network.decoder.embedding.weight.device
    if device.type == "cpu":
        LOADER.wait()
    own = peers.measure(own_generator(model.engine), prompt, new, tries)
    rate = bandwidth(device)
    others = {}
    if against:
        whole = Model.load(path, **{name: value for name, value in words.items() if name not in ("int8", "int4")})
        others[against] = peers.measure(_peer(against, whole, kind(model.network.decoder), threads), prompt, new, tries)
    read = bytes_per_token(model.network.decoder)
    return Bench(kind(model.network.decoder), prompt, new, threads, own, read, rate, LOADER.reason, others)


def own_generator(engine: Engine) -> peers.Generator:
    """Greedy answers to random prompts, of which no two begin alike."""
    config = engine.network.config
    start = split_prompt([Text("a")], engine.tokenizer)[1] if config.encoder_layers else []

    def generate(length: int, new: int) -> None:
        ids = torch.randint(min(config.vocab_size, engine.tokenizer.vocab_size), (length,)).tolist()
        sampling = Sampling(max_tokens=new, min_tokens=new)
        request = Request(start, sampling, ids) if config.encoder_layers else Request(ids, sampling)
        ((completion,),) = engine.run([request])
        assert len(completion.ids) == new

    return generate


def kind(network: Transformer) -> str:
    """The precision of the weights of the linear layers."""
    for module in network.modules():
        if isinstance(module, Int8Linear | Int4Linear):
            return "int8" if isinstance(module, Int8Linear) else "int4"
    return str(network.embedding.weight.dtype).removeprefix("torch.")


def bytes_per_token(network: Transformer) -> int:
    """Bytes of the weights that one token reads: of tables a row, of experts those it chooses."""
    total, share = 0.0, {}
    for layer in network.modules():
        if isinstance(layer, ExpertsLayer):
            share |= dict.fromkeys(set(layer.modules()) - {layer.router}, layer.part.top_k / layer.part.count)
    for name, module in network.named_modules():
        own = sum(t.nbytes for t in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
        if name.startswith("encoder") or isinstance(module, PositionEmbedding):
            own = 0
        elif module is network.embedding:
            own = own if network.output is None else 0
        total += own * share.get(module, 1)
    return round(total)


def bandwidth(device: torch.device = CPU, seconds: float = 1.0) -> float:
    """Bytes a second that all threads together read from memory, the best of some passes over a gigabyte; on a GPU
    those that a copy reads and writes."""
    if device.type != "cpu":
        source = torch.ones(PROBE // 8, dtype=torch.int64, device=device)
        target = torch.empty_like(source)
        return 2 * PROBE / runtime.stopwatch(lambda: target.copy_(source), device, seconds, most=200)
    memory = torch.ones(PROBE // 8, dtype=torch.int64)
    library = LOADER.get()
    read = memory.max if library is None else lambda: library.read(memory)
    return PROBE / runtime.stopwatch(read, memory.device, seconds)


def _peer(name: str, model: Model, kind: str, threads: int) -> peers.Generator:
    with tempfile.TemporaryDirectory(prefix="polytask-bench-") as folder:
        place = Path(folder)
        if name == "hf":
            library = peers.found("transformers")
            model.export(place / "hf")
            dtype = model.network.decoder.embedding.weight.dtype
            return peers.transformers(library.AutoModelForCausalLM.from_pretrained(place / "hf", dtype=dtype).eval())
        whole = place / "bfloat16.gguf"
        of_network(model.network.decoder).write(whole)
        path = whole
        if kind in ("int8", "int4"):
            peers.quantize(whole, path := place / f"{kind}.gguf", kind)
        return peers.llama_cpp(path, threads, model.config.context_length)
