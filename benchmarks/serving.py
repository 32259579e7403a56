"""Serving: polytask's server beside llama.cpp's two, transformers' with continuous batching, and vLLM's.

    python benchmarks/serving.py --against llama.cpp,transformers --llama-server PATH

GPT-2 small (124 M) with random weights in one precision, greedy. 16 clients at once ask for 64 tokens each after
prompts of 20 to 400 tokens: tokens/s of all together and the 95th percentile of the seconds that an answer took. Then,
alone: seconds until the first token of one client with a prompt of 1,000 tokens and of a second one that shares it, and
from the start of the process to the first token of all. What is not installed is said and left out; llama.cpp needs the
package `gguf`.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import harness

LAYERS, DIM, HEADS, VOCABULARY, CONTEXT = 12, 768, 12, 50257, 1024
END = VOCABULARY - 1
SHARED = 1000
PATIENCE = 600.0  # seconds for a server to be there, and for an answer
GGUF = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0"}


# The model: one folder and one file of the same weights


def vocabulary() -> dict[str, int]:
    """GPT-2's bytes, one merge, and words that no text is cut into but that random weights may write."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*sorted(ByteLevel.alphabet()), "ab"]
    tokens += [f"Ġ{number:05d}" for number in range(END - len(tokens))]
    return {token: i for i, token in enumerate([*tokens, "<|endoftext|>"])}


def make(folder: Path) -> None:
    """A folder that transformers, vLLM and polytask load."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=DIM, n_layer=LAYERS, n_head=HEADS,
                        bos_token_id=END, eos_token_id=END)  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary(), merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)


def convert(folder: Path, file: Path, kind: str) -> None:
    """The same for llama.cpp: matrices in `kind`, vectors in float32."""
    import gguf
    from safetensors.numpy import load_file

    writer = gguf.GGUFWriter(str(file), "gpt2")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(4 * DIM)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(vocabulary()))
    writer.add_token_types([gguf.TokenType.NORMAL] * END + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(END)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(False)
    precision = gguf.GGMLQuantizationType[GGUF[kind]]
    for name, tensor in load_file(folder / "model.safetensors").items():
        if tensor.ndim == 1:
            writer.add_tensor(renamed(name), tensor)
            continue
        matrix = tensor.T.copy() if name.split(".")[-2].startswith("c_") else tensor  # GPT-2 keeps products transposed
        writer.add_tensor(renamed(name), gguf.quants.quantize(matrix, precision), raw_dtype=precision)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def renamed(name: str) -> str:
    name = name.removeprefix("transformer.")
    for theirs, ours in (
        ("wte.", "token_embd."), ("wpe.", "position_embd."), ("ln_f.", "output_norm."), ("h.", "blk."),
        ("ln_1.", "attn_norm."), ("attn.c_attn.", "attn_qkv."), ("attn.c_proj.", "attn_output."),
        ("ln_2.", "ffn_norm."), ("mlp.c_fc.", "ffn_up."), ("mlp.c_proj.", "ffn_down."),
    ):  # fmt: skip
        name = name.replace(theirs, ours)
    return name


# The contenders: the command that serves, or why there is none


def polytask(work: Path, port: int, options: argparse.Namespace) -> list[str]:
    precision = ["--int8"] if options.precision == "int8" else ["--dtype", options.precision]
    words = ["serve", str(work / "model"), "--name", "bench", "--port", str(port), *precision]
    return [sys.executable, "-m", "polytask.cli.main", *words]


def llama(work: Path, port: int, options: argparse.Namespace) -> list[str]:
    server = options.llama_server or shutil.which("llama-server")
    if not server:
        raise LookupError("llama-server is not here; build it from llama.cpp and name it by --llama-server")
    words = ["--model", str(gguf_file(work, options)), "--alias", "bench", "--port", str(port)]
    slots = ["--parallel", str(options.clients), "--ctx-size", str(options.clients * CONTEXT)]
    return [server, *words, "--threads", str(threads()), *slots]


def gguf_file(work: Path, options: argparse.Namespace) -> Path:
    if not find_spec("gguf"):
        raise LookupError("the package gguf is missing, which writes what llama.cpp reads: pip install gguf")
    file = work / f"{options.precision}.gguf"
    if not file.exists():
        convert(work / "model", file, options.precision)
    return file


def llama_python(work: Path, port: int, options: argparse.Namespace) -> list[str]:
    python = options.llama_python or (sys.executable if find_spec("llama_cpp") else None)
    if not python:
        raise LookupError("llama_cpp is not here: pip install 'llama-cpp-python[server]', or name its Python")
    words = ["--model", str(gguf_file(work, options)), "--model_alias", "bench", "--port", str(port)]
    return [python, "-m", "llama_cpp.server", *words, "--n_ctx", str(CONTEXT), "--n_threads", str(threads())]


def transformers(work: Path, port: int, options: argparse.Namespace) -> list[str]:
    if not find_spec("transformers"):
        raise LookupError("transformers is missing: pip install transformers[serving]")
    if options.precision == "int8":
        raise LookupError("transformers serves no 8 bits on a CPU")
    words = ["serve", str(work / "model"), "--port", str(port), "--continuous-batching", "--dtype", options.precision]
    return [sys.executable, "-m", "transformers.cli.transformers", *words, "--device", "cpu"]


def vllm(work: Path, port: int, options: argparse.Namespace) -> list[str]:
    program = options.vllm or shutil.which("vllm")
    if not program:
        raise LookupError("vLLM is not here: install it (for a CPU see docs/log.md) and name it by --vllm")
    if options.precision == "int8":
        raise LookupError("vLLM serves no 8 bits of these weights")
    # Left to itself it keeps one core free, and does not start where less than 0.92 of the memory is.
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[: threads()]))
    return ["env", f"VLLM_CPU_OMP_THREADS_BIND={cores}", program, "serve", str(work / "model"),
            "--served-model-name", "bench", "--port", str(port), "--dtype", options.precision,
            "--max-num-seqs", str(options.clients), "--gpu-memory-utilization", "0.5"]  # fmt: skip


Command = Callable[[Path, int, argparse.Namespace], list[str]]
AGAINST: dict[str, Command] = {
    "llama.cpp": llama, "llama_cpp.server": llama_python, "transformers": transformers, "vllm": vllm,
}  # fmt: skip


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


# The clients


def prompt(tokens: int, seed: int) -> str:
    """A text of so many tokens: each digit is one."""
    return "".join(Random(seed).choices("0123456789", k=tokens))


class Client:
    """Asks one server."""

    def __init__(self, port: int, model: str):
        self.address, self.model = f"http://127.0.0.1:{port}/v1/completions", model

    def _open(self, text: str, tokens: int, stream: bool) -> Any:
        body = {"model": self.model, "prompt": text, "max_tokens": tokens, "temperature": 0, "stream": stream}
        request = urllib.request.Request(
            self.address, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def answer(self, text: str, tokens: int) -> tuple[int, float]:
        """Tokens that came, and the seconds that they took."""
        start = time.perf_counter()
        with self._open(text, tokens, stream=False) as reply:
            usage = json.load(reply)["usage"]
        return usage["completion_tokens"], time.perf_counter() - start

    def first(self, text: str) -> float:
        """Seconds until the first text of a streamed answer, which is read to its end."""
        start, seconds = time.perf_counter(), None
        with self._open(text, 8, stream=True) as reply:
            for line in reply:
                if seconds is None and line.startswith(b"data: {") and _has_text(json.loads(line[6:])):
                    seconds = time.perf_counter() - start
        if seconds is None:
            raise RuntimeError("an answer ended without a text")
        return seconds


def _has_text(event: dict[str, Any]) -> bool:
    return bool(event["choices"]) and bool(event["choices"][0].get("text"))


@contextmanager
def served(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def started(client: Client, process: subprocess.Popen, log: Path) -> None:
    """Returns once a short prompt has given its first token."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            client.first(prompt(8, 0))
            return
        except (urllib.error.URLError, ConnectionError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code not in (404, 503):
                raise RuntimeError(f"it answered {error.code}: {error.read()[:300]!r}") from None
            if process.poll() is not None:
                raise RuntimeError(f"it ended with {process.returncode}: {log.read_text()[-1500:]}") from None
            time.sleep(0.05)
    raise RuntimeError(f"it did not answer in {PATIENCE:.0f} seconds: {log.read_text()[-1500:]}")


def load(client: Client, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """All clients at once, each with `rounds` requests one after another."""
    lengths = [20 + 380 * i // max(1, options.clients - 1) for i in range(options.clients)]
    Random(seed).shuffle(lengths)

    def ask(i: int) -> list[tuple[int, float]]:
        texts = [prompt(lengths[i], 1000 * seed + 100 * i + number) for number in range(options.rounds)]
        return [client.answer(text, options.new) for text in texts]

    start = time.perf_counter()
    with ThreadPoolExecutor(options.clients) as pool:
        answers = [one for some in pool.map(ask, range(options.clients)) for one in some]
    wall = time.perf_counter() - start
    seconds = sorted(one for _, one in answers)
    return {
        "tokens_per_second": sum(tokens for tokens, _ in answers) / wall,
        "p95_seconds": seconds[min(len(seconds) - 1, round(0.95 * len(seconds)))],
    }


def contend(name: str, make_command: Command, work: Path, options: argparse.Namespace) -> dict[str, float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command, log = make_command(work, port, options), work / f"{name}.log"
    client = Client(port, str(work / "model") if name == "transformers" else "bench")
    start = time.perf_counter()
    with served(command, log) as process:
        started(client, process, log)
        figures = {"start_seconds": time.perf_counter() - start}
        load(client, options, seed=9)  # warms up
        loads = [load(client, options, seed) for seed in range(options.repeats)]
        for key in loads[0]:
            figures[key] = harness.median(loads, key)
        pairs = []
        for number in range(options.repeats):
            system = prompt(SHARED, 50 + number)
            pairs.append(
                {"first": client.first(system + prompt(8, 70)), "second": client.first(system + prompt(8, 71))}
            )
        figures |= {f"{key}_client_seconds": harness.median(pairs, key) for key in ("first", "second")}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default=",".join(AGAINST), help=f"of {', '.join(AGAINST)}; with commas between")
    parser.add_argument("--precision", choices=list(GGUF), default="float32")
    parser.add_argument("--llama-server", help="llama.cpp's llama-server, where it is not on the PATH")
    parser.add_argument("--llama-python", help="a Python that has llama_cpp.server, where this one has not")
    parser.add_argument("--vllm", help="vLLM's command, where it is not on the PATH")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--new", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=2, help="requests of each client, one after another")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few clients and tokens, once: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.clients, options.new, options.rounds, options.repeats = 4, 8, 1, 1
    report = harness.Report(
        "serving" if options.precision == "float32" else f"serving-{options.precision}", options.out
    )
    report.say(f"{options.precision}, {options.clients} clients, {options.new} tokens each")
    contenders: dict[str, Command] = {"polytask": polytask}
    contenders |= {name: AGAINST[name] for name in options.against.split(",") if name}
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        make(work / "model")
        for name, command in contenders.items():
            try:
                figures[name] = contend(name, command, work, options)
            except (LookupError, RuntimeError, OSError) as error:
                report.say(f"{name} is left out: {error}")
    show(report, figures)
    asked = {key: getattr(options, key) for key in ("precision", "clients", "new", "rounds", "repeats")}
    report.save({"options": asked, "figures": figures})


def show(report: harness.Report, figures: dict[str, dict[str, float]]) -> None:
    ours = figures.get("polytask")
    head = ["server", "tokens/s", "p95 s", "first client s", "second s", "start s", "our tokens/s to theirs"]
    rows = []
    for name, one in figures.items():
        ratio = f"{ours['tokens_per_second'] / one['tokens_per_second']:.2f}" if ours else ""
        seconds = [f"{one[key]:.2f}" for key in ("p95_seconds", "first_client_seconds")]
        rows.append([name, f"{one['tokens_per_second']:.0f}", *seconds, f"{one['second_client_seconds']:.3f}",
                     f"{one['start_seconds']:.1f}", ratio])  # fmt: skip
    report.table(head, rows)


if __name__ == "__main__":
    main()
