"""Other engines that a model's speed is measured beside. Nothing here needs torch to be imported.

A generator is a function of (prompt length, new tokens) that reads a prompt of its own and writes so many tokens.
"""

import ctypes
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from polytask.errors import ConfigError

Generator = Callable[[int, int], None]
FILE_TYPES = {"bfloat16": 32, "int8": 7, "int4": 2}  # of llama.cpp: BF16, Q8_0 and Q4_0


@dataclass(frozen=True)
class Speed:
    """prefill: tokens of a prompt a second, until the first new one. decoding: new tokens a second after the first.
    first: seconds until the first. Each by the fastest of some tries, which is least disturbed by others."""

    prefill: float
    decoding: float
    first: float


def measure(generate: Generator, prompt: int, new: int, tries: int = 3) -> Speed:
    """How fast `generate` is with one prompt of `prompt` tokens and `new` tokens (2 or more) after it."""

    def seconds(count: int) -> float:
        start = time.perf_counter()
        generate(prompt, count)
        return time.perf_counter() - start

    generate(prompt, 2)
    first, whole = (min(times) for times in zip(*((seconds(1), seconds(new)) for _ in range(tries))))
    return Speed(prompt / first, (new - 1) / (whole - first), first)


def found(library: str) -> Any:
    """A peer's library. Raises ConfigError, saying what to install, where it is not there."""
    try:
        return import_module(library)
    except ImportError:
        packages = {"transformers": "transformers"}.get(library, "llama-cpp-python gguf")
        raise ConfigError(f"This needs {library}, which is missing. Install it with: pip install {packages}") from None


def transformers(model: Any) -> Generator:
    """Greedy `generate` of a transformers model on the CPU."""
    import torch

    vocabulary = model.config.vocab_size

    @torch.inference_mode()
    def generate(length: int, new: int) -> None:
        ids = torch.randint(vocabulary, (1, length))
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        assert out.shape[1] == length + new

    return generate


@dataclass(frozen=True)
class Gguf:
    """What llama.cpp is told of a network: `architecture` gpt2 or llama, its sizes by the keys of that architecture,
    and float32 tensors by the names that it has for them."""

    architecture: str
    sizes: Mapping[str, int | float]
    tensors: Iterable[tuple[str, Any]]

    def write(self, path: Path) -> None:
        """Writes a file without a vocabulary, matrices in bfloat16 and vectors in float32. Raises ConfigError."""
        gguf = found("gguf")
        writer = gguf.GGUFWriter(str(path), self.architecture)
        for key, value in self.sizes.items():
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(f"{self.architecture}.{key}", value)
        writer.add_tokenizer_model("no_vocab")
        for name, tensor in self.tensors:
            kind = gguf.GGMLQuantizationType.BF16 if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
            data = gguf.quants.quantize(tensor, kind) if tensor.ndim > 1 else tensor
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def quantize(source: Path, target: Path, kind: str) -> None:
    """Writes the bfloat16 file `source` in 8 or 4 bits, as llama.cpp's own tool does (embeddings in 6 at the least)."""
    library = found("llama_cpp")
    words = library.llama_model_quantize_default_params()
    words.ftype = FILE_TYPES[kind]
    with _quiet(library):
        if library.llama_model_quantize(str(source).encode(), str(target).encode(), words):
            raise ConfigError(f"llama.cpp could not write {target} in {kind}.")


def llama_cpp(path: Path, threads: int, context: int) -> Generator:
    """Greedy decoding of llama.cpp from a file, one token after another."""
    import numpy

    library = found("llama_cpp")
    with _quiet(library):
        library.llama_backend_init()
        model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
        words = library.llama_context_default_params()
        words.n_ctx, words.n_batch, words.n_ubatch = context, context, 512
        words.n_threads, words.n_threads_batch = threads, threads
        state = library.llama_init_from_model(model, words) if model else None
    if not state:
        raise ConfigError(f"llama.cpp could not load {path}.")
    size = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    random = numpy.random.default_rng(0)

    def run(ids: Any) -> int:
        tokens = (library.llama_token * len(ids))(*ids)
        if library.llama_decode(state, library.llama_batch_get_one(tokens, len(ids))):
            raise ConfigError(f"llama.cpp could not decode {len(ids)} tokens.")
        logits = library.llama_get_logits_ith(state, -1)
        return int(numpy.ctypeslib.as_array(logits, (size,)).argmax())

    def generate(length: int, new: int) -> None:
        library.llama_memory_clear(library.llama_get_memory(state), True)
        token = run(random.integers(size, size=length).tolist())
        for _ in range(new - 1):
            token = run([token])

    return generate


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """llama.cpp tells the console whatever it loads."""
    silent = library.llama_log_callback(lambda *_: None)
    library.llama_log_set(silent, ctypes.c_void_p())
    _KEPT.append(silent)  # which it may call for as long as the process lives
    yield


_KEPT: list[Any] = []
