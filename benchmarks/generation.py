"""Generation, one request at a time: polytask's engine, llama.cpp and transformers' `generate` at the same precision.

    python benchmarks/generation.py                                  # GPT-2 small (124 M)
    python benchmarks/generation.py --shape 1.1b --peers ~/peers/bin/python

Greedy, random weights, each in a process of its own, in turn. Decoding is tokens/s after the first token; prefill is
prompt tokens/s until the first one; memory is what all threads read from it at once, measured before each of ours.
llama.cpp runs in the python that --peers names, which needs llama-cpp-python, built on this machine (CMAKE_ARGS=
"-DGGML_NATIVE=ON" pip install llama-cpp-python gguf), and numpy; without it, it is left out.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness

PROMPT, PREFILL, NEW = 32, 512, 128
KINDS = ("bfloat16", "int8", "int4")
THEIRS = {"bfloat16": "bf16", "int8": "q8_0", "int4": "q4_0"}


@dataclass(frozen=True)
class Shape:
    """The sizes of a network of GPT-2's kind, or of Llama's where it has fewer heads of keys than of queries."""

    name: str
    layers: int
    dim: int
    heads: int
    kv_heads: int
    width: int
    vocabulary: int
    context: int

    @property
    def gpt2(self) -> bool:
        return self.kv_heads == self.heads


SHAPES = {
    "124m": Shape("GPT-2 small, 124 M", 12, 768, 12, 12, 3072, 50257, 1024),
    "1.1b": Shape("TinyLlama, 1.1 B", 22, 2048, 32, 4, 5632, 32000, 2048),
}


def ours(shape: Shape, kind: str, _: Path) -> tuple[Any, dict[str, float]]:
    import torch

    from polytask import runtime
    from polytask.inference.engine import Engine
    from polytask.models.transformer import Transformer
    from polytask.nn.kernels.library import LOADER
    from polytask.nn.quant import quantize
    from polytask.run.bench import bandwidth, bytes_per_token, own_generator
    from polytask.tokenizers.text import TextTokenizer

    runtime.prepare(huge_pages=True)
    if LOADER.wait() is None:
        print(LOADER.reason, file=sys.stderr)
    with torch.device("meta"):
        network = Transformer(config(shape)).to(torch.float32 if kind == "float32" else torch.bfloat16)
    network = network.to_empty(device="cpu").eval()
    for parameter in network.parameters():
        parameter.data.normal_(std=0.02) if parameter.dim() > 1 else parameter.data.fill_(1)
    network.fill_buffers()
    if kind in ("int8", "int4"):
        quantize(network, 8 if kind == "int8" else 4)
    about = {"bandwidth": bandwidth(), "bytes_per_token": bytes_per_token(network)}
    return own_generator(Engine(network, TextTokenizer.bytes())), about


def config(shape: Shape) -> Any:
    from polytask.models.config import TransformerConfig
    from polytask.nn.attention import Attention
    from polytask.nn.feedforward import MLP, GatedMLP
    from polytask.nn.norm import LayerNorm, RMSNorm
    from polytask.nn.position import Learned, Rotary

    gpt2 = shape.gpt2
    return TransformerConfig(
        vocab_size=shape.vocabulary, context_length=shape.context, layers=shape.layers, dim=shape.dim,
        attention=Attention(shape.heads, shape.kv_heads, bias=gpt2),
        feedforward=MLP(shape.width, "gelu_tanh", bias=True) if gpt2 else GatedMLP(shape.width),
        norm=LayerNorm() if gpt2 else RMSNorm(), position=Learned() if gpt2 else Rotary(), tied=gpt2,
    )  # fmt: skip


def transformers(shape: Shape, kind: str, _: Path) -> tuple[Any, dict[str, float]]:
    import torch

    from polytask import runtime
    from polytask.run import peers

    torch.set_num_threads(runtime.cores())
    torch.set_default_dtype(getattr(torch, kind))
    return peers.transformers(transformers_model(shape)), {}


def transformers_model(shape: Shape) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if shape.gpt2:
        words = GPT2Config(
            vocab_size=shape.vocabulary, n_positions=shape.context, n_embd=shape.dim, n_layer=shape.layers,
            n_head=shape.heads,
        )  # fmt: skip
    else:
        words = LlamaConfig(
            vocab_size=shape.vocabulary, max_position_embeddings=shape.context, hidden_size=shape.dim,
            num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
            intermediate_size=shape.width,
        )  # fmt: skip
    return (GPT2LMHeadModel if shape.gpt2 else LlamaForCausalLM)(words).eval()


def llama_cpp(shape: Shape, kind: str, folder: Path) -> tuple[Any, dict[str, float]]:
    from polytask import runtime
    from polytask.run import peers

    whole, path = folder / "bfloat16.gguf", folder / f"{kind}.gguf"
    if not whole.exists():
        gguf(shape).write(whole)
    if not path.exists():
        peers.quantize(whole, path, kind)
    return peers.llama_cpp(path, runtime.cores(), shape.context), {}


def gguf(shape: Shape) -> Any:
    from polytask.run.peers import Gguf

    sizes: dict[str, int | float] = {
        "context_length": shape.context, "embedding_length": shape.dim, "block_count": shape.layers,
        "feed_forward_length": shape.width, "attention.head_count": shape.heads, "vocab_size": shape.vocabulary,
    }  # fmt: skip
    if shape.gpt2:
        return Gguf("gpt2", sizes | {"attention.layer_norm_epsilon": 1e-5}, tensors(shape))
    more = {"attention.head_count_kv": shape.kv_heads, "attention.layer_norm_rms_epsilon": 1e-5}
    rope = {"rope.dimension_count": shape.dim // shape.heads, "rope.freq_base": 10_000.0}
    return Gguf("llama", sizes | more | rope, tensors(shape))


def tensors(shape: Shape) -> Iterator[tuple[str, Any]]:
    """Random matrices, and norms of one, by the names that llama.cpp has."""
    import numpy

    random = numpy.random.default_rng(0).standard_normal(1 << 20, dtype=numpy.float32) * 0.02
    dim, kv, width = shape.dim, shape.dim // shape.heads * shape.kv_heads, shape.width
    matrices = {"attn_output": (dim, dim), "ffn_up": (width, dim), "ffn_down": (dim, width)}
    if shape.gpt2:
        matrices |= {"attn_qkv": (3 * dim, dim)}
    else:
        matrices |= {"attn_q": (dim, dim), "attn_k": (kv, dim), "attn_v": (kv, dim), "ffn_gate": (width, dim)}

    def layer(name: str, shape_of: tuple[int, ...], bias: bool) -> Iterator[tuple[str, Any]]:
        norm = len(shape_of) == 1
        weight = numpy.ones(shape_of, numpy.float32) if norm else numpy.resize(random, shape_of)
        yield f"{name}.weight", weight
        if bias:
            yield f"{name}.bias", numpy.zeros(shape_of[0], numpy.float32)

    yield from layer("token_embd", (shape.vocabulary, dim), False)
    if shape.gpt2:
        yield from layer("position_embd", (shape.context, dim), False)
    else:
        yield from layer("output", (shape.vocabulary, dim), False)
    yield from layer("output_norm", (dim,), shape.gpt2)
    for i in range(shape.layers):
        for name, shape_of in ({"attn_norm": (dim,), "ffn_norm": (dim,)} | matrices).items():
            yield from layer(f"blk.{i}.{name}", shape_of, shape.gpt2)


MAKERS = {"polytask": ours, "transformers": transformers, "llama.cpp": llama_cpp}


def contend(name: str, options: argparse.Namespace) -> None:
    from polytask.run import peers

    engine, kind = name.split(",")
    generate, about = MAKERS[engine](SHAPES[options.shape], kind, options.folder)
    decoding = peers.measure(generate, PROMPT, options.new, options.tries)
    prefill = peers.measure(generate, PREFILL, 2, options.tries)
    harness.answer({"decoding": decoding.decoding, "prefill": prefill.prefill, **about})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="124m")
    parser.add_argument("--kinds", nargs="+", choices=["float32", *KINDS], default=list(KINDS))
    parser.add_argument("--peers", default=sys.executable, help="a python that has llama_cpp and gguf")
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tries", type=int, default=3, help="in each process")
    parser.add_argument("--new", type=int, default=NEW)
    parser.add_argument("--quick", action="store_true", help="few tokens, once: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    parser.add_argument("--folder", type=Path, help="where files for llama.cpp are kept; a temporary one by default")
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.tries, options.new = 1, 1, 8
    return options


def contenders(options: argparse.Namespace) -> list[str]:
    """ "engine,precision" of all that there are here."""
    found = [f"polytask,{kind}" for kind in options.kinds]
    if subprocess.run([options.peers, "-c", "import llama_cpp, gguf"], capture_output=True).returncode:
        print("llama.cpp is left out: see --help for what to install")
    else:
        found += [f"llama.cpp,{kind}" for kind in options.kinds if kind in KINDS]
    if not options.no_transformers:
        found += [f"transformers,{kind}" for kind in options.kinds if kind in ("float32", "bfloat16")]
    return found


def main() -> None:
    options = arguments()
    if options.contend:
        return contend(options.contend, options)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        run(options)


def run(options: argparse.Namespace) -> None:
    shape = SHAPES[options.shape]
    report = harness.Report(f"generation-{options.shape}", options.out)
    words = ["--shape", options.shape, "--tries", str(options.tries), "--new", str(options.new)]
    words += ["--folder", str(options.folder)]
    runs: dict[str, list[dict]] = {name: [] for name in contenders(options)}
    for _ in range(options.repeats):
        for name in runs:
            python = options.peers if name.startswith("llama.cpp") else sys.executable
            runs[name].append(harness.ask(__file__, [*words, "--contend", name], python))
    report.say(f"{shape.name}, one request: {PROMPT} tokens in, {options.new} out")
    report.say(f"tokens/s of decoding, and of the prefill of {PREFILL}; the ratio is to llama.cpp at that precision")
    rows, figures = [], {}
    for name, found in runs.items():
        engine, kind = name.split(",")
        decoding, prefill = (harness.median(found, one) for one in ("decoding", "prefill"))
        figures[name] = {"decoding": decoding, "prefill": prefill}
        peer = runs.get(f"llama.cpp,{kind}")
        ratio = f"{decoding / harness.median(peer, 'decoding'):.2f}" if peer else ""
        share = ""
        if engine == "polytask":
            used = [one["decoding"] * one["bytes_per_token"] / one["bandwidth"] for one in found]
            share = f"{sorted(used)[len(used) // 2]:.0%}"
        shown = THEIRS[kind] if engine == "llama.cpp" else kind
        extent = harness.spread(found, "decoding")
        rows.append([f"{engine}, {shown}", f"{decoding:.1f}", ratio, extent, share, f"{prefill:,.0f}"])
    report.table(["contender", "decoding", "ratio", "range", "of memory", "prefill"], rows)
    report.bars({name: f["decoding"] for name, f in figures.items()}, f"tokens/s of decoding, {shape.name}, batch 1")
    report.save({"shape": asdict(shape), "tokens_per_second": figures, "runs": runs})


if __name__ == "__main__":
    main()
