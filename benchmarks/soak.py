"""Many clients against one server for a while: some leave, some send nonsense, some read slowly.

    python benchmarks/soak.py --seconds 600 --clients 32

Prints what was asked and how it ended, blocks of the cache that nobody holds and that are not free, and how the memory
grew after the first quarter. Exits with 1 where anything leaked or an accepted request never ended.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

LONGEST = 120.0  # seconds after which an accepted request counts as one that never ended
NONSENSE = (
    b"", b"{", b"[]", b'{"prompt": 5}', b'{"prompt": ' + b"[" * 5000, b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    b'{"prompt": "\xff"}', b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "unknown": 1}', b"\x00" * 1000,
)  # fmt: skip


class Client:
    """One of many; `ended` counts what became of its requests, by what it did."""

    def __init__(self, number: int, address: str, ended: Counter):
        self.random, self.ended = random.Random(number), ended
        self.http = httpx.AsyncClient(base_url=address, timeout=LONGEST)

    async def run(self, until: float) -> None:
        manners = (
            self.ask,
            self.stream,
            self.leave,
            self.leave_early,
            self.nonsense,
            self.huge,
            self.slow,
            self.choose,
        )
        async with self.http:
            while time.monotonic() < until:
                manner = self.random.choice(manners)
                try:
                    end = await manner()
                except httpx.TimeoutException:
                    end = "never ended"
                self.ended[f"{manner.__name__}: {end}"] += 1

    def body(self, **more) -> dict:
        tokens = self.random.randint(1, 60)
        prompt = "".join(self.random.choices("abcdef ", k=self.random.randint(1, 100)))
        return {"prompt": prompt, "max_tokens": tokens, "n": self.random.choice((1, 1, 1, 3))} | more

    async def ask(self) -> str:
        return str((await self.http.post("/v1/completions", json=self.body())).status_code)

    async def choose(self) -> str:
        example = {"text": "abc", "labels": ["a", "b", "c"]}
        return str((await self.http.post("/v1/tasks/classify", json={"example": example})).status_code)

    async def stream(self, pause: float = 0.0, pieces: int = 10**9) -> str:
        async with self.http.stream("POST", "/v1/completions", json=self.body(stream=True)) as answer:
            last = ""
            async for line in answer.aiter_lines():
                last = line or last
                pieces -= 1
                if pieces < 0:
                    return "left"
                await asyncio.sleep(pause)
        if answer.status_code != 200:
            return str(answer.status_code)
        return "done" if last == "data: [DONE]" else "never ended"

    async def slow(self) -> str:
        return await self.stream(pause=0.05)

    async def leave(self) -> str:
        return await self.stream(pieces=self.random.randint(0, 20))

    async def leave_early(self) -> str:
        try:
            async with asyncio.timeout(self.random.random() * 0.2):
                return await self.ask()
        except TimeoutError:
            return "left"

    async def nonsense(self) -> str:
        headers = {"content-type": self.random.choice(("application/json", "application/json", "text/plain"))}
        body = self.random.choice(NONSENSE)
        return str((await self.http.post("/v1/completions", content=body, headers=headers)).status_code)

    async def huge(self) -> str:
        body = self.random.choice((b" " * 6_000_000, json.dumps({"prompt": "a" * 900_000}).encode()))
        try:
            answer = await self.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            return "cut off"  # refused while it was still being sent
        return str(answer.status_code)


def start(folder: str | None) -> tuple[subprocess.Popen, str]:
    """A server of a checkpoint, or of a small random model; with its address."""
    path = folder or _tiny()
    words = [
        sys.executable,
        "-m",
        "polytask.cli.main",
        "serve",
        path,
        "--name",
        "model",
        "--port",
        "0",
        "--max-queue",
        "16",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    found = re.search(r"http://[^/]+", process.stdout.readline())
    if found is None:
        raise SystemExit("The server did not start.")
    return process, found[0]


def _tiny() -> str:
    from polytask.model import Model
    from polytask.models.catalogue import build_config
    from polytask.models.transformer import Transformer
    from polytask.tokenizers.text import TextTokenizer

    tokenizer = TextTokenizer.bytes()
    sizes = {"depth": 2, "dim": 32, "heads": 2}
    config = build_config("generalist", vocab_size=tokenizer.vocab_size, context_length=256, **sizes)
    path = Path(tempfile.mkdtemp()) / "tiny"
    Model(Transformer(config).initialize(0), tokenizer).save(path)
    return str(path)


def memory(process: int) -> float:
    """Megabytes that a process holds."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def soak(address: str, process: int, seconds: float, clients: int) -> dict:
    """What became of all requests, how many blocks leaked, and megabytes of memory by the second."""
    ended, began, held = Counter(), time.monotonic(), {}

    async def watch() -> None:
        while time.monotonic() < began + seconds:
            held[round(time.monotonic() - began)] = round(memory(process), 1)
            await asyncio.sleep(max(1.0, seconds / 40))

    await asyncio.gather(watch(), *(Client(i, address, ended).run(began + seconds) for i in range(clients)))
    figures: dict[str, float] = {}
    async with httpx.AsyncClient(base_url=address, timeout=LONGEST) as http:
        for _ in range(100):  # who left a moment ago is noticed at the next step
            text = (await http.get("/metrics")).text
            names = re.findall(r'polytask_(\w+)\{model="model"\} ([\d.e+]+)', text)
            figures = {name: float(value) for name, value in names}
            if figures["running"] == figures["waiting"] == 0:
                break
            await asyncio.sleep(0.1)
    return {
        "requests": sum(ended.values()),
        "ended": dict(sorted(ended.items())),
        "still running": figures["running"] + figures["waiting"],
        "leaked blocks": figures["total_blocks"] - figures["free_blocks"],
        "never ended": sum(count for name, count in ended.items() if name.endswith("never ended")),
        "failures of the server": sum(count for name, count in ended.items() if name.endswith(": 500")),
        "megabytes": held,
    }


def run(seconds: float, clients: int, folder: str | None = None) -> dict:
    process, address = start(folder)
    try:
        found = asyncio.run(soak(address, process.pid, seconds, clients))
        found["megabytes at the end"] = round(memory(process.pid), 1)
    finally:
        process.terminate()
        found_code = process.wait(60)
    held = list(found["megabytes"].values())
    found["growth after a quarter, MB"] = round(found["megabytes at the end"] - held[len(held) // 4], 1)
    return found | {"exit code": found_code}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--model", help="a checkpoint folder; by default a small random model")
    given = parser.parse_args()
    result = run(given.seconds, given.clients, given.model)
    print(json.dumps(result, indent=1))
    bad = ("still running", "leaked blocks", "never ended", "failures of the server", "exit code")
    sys.exit(any(result[name] for name in bad))
