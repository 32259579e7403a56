"""Two replicas under load, one of which is killed: what became of each request.

python benchmarks/replicas.py

A small random model is served by two processes. Half of the requests are streamed. While they run, one replica is
killed. What is promised: each whole answer comes, each stream comes whole or ends with an error that says so, and the
replica comes back.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import harness
import httpx
import psutil

from polytask.model import Model
from polytask.models.catalogue import build_config
from polytask.models.transformer import Transformer
from polytask.tokenizers.text import TextTokenizer

PATIENCE = 300.0  # seconds; the machine may be busy
TOKENIZER = TextTokenizer.bytes()
ENDLESS = {str(TOKENIZER.encode("x")[0]): 100}  # answers are as long as they are asked to be


def save_model(folder: Path) -> None:
    config = build_config(
        "generalist", depth=2, dim=64, heads=2, vocab_size=TOKENIZER.vocab_size, context_length=2048
    )  # fmt: skip
    Model(Transformer(config).initialize(0).eval(), TOKENIZER).save(folder)


class Server:
    """`polytask serve` with two replicas, in a process of its own."""

    def __init__(self, folder: Path, *words: str):
        command = [sys.executable, "-m", "polytask.cli.main", "serve", str(folder), "--port", "0", "--replicas", "2"]
        self.log = (folder.parent / "server.log").open("w+")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.run = subprocess.Popen(
            [*command, *words], stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )
        assert self.run.stdout is not None
        line = self.run.stdout.readline()
        found = re.search(r"http://[^/]+", line)
        if found is None:
            raise SystemExit(f"The server did not start: {self.logged()}")
        self.address = found[0]

    def logged(self) -> str:
        return Path(self.log.name).read_text()

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self.run.pid), *psutil.Process(self.run.pid).children(recursive=True)]

    def replicas(self) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            try:
                if "ServeReplica" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:  # it has ended meanwhile
                continue
        return found

    def ports(self) -> list[str]:
        """Addresses at which any of the processes listens."""
        return sorted({
            connection.laddr.ip for process in self.processes()
            for connection in process.net_connections() if connection.status == psutil.CONN_LISTEN
        })  # fmt: skip

    async def ready(self, count: int) -> float:
        """Seconds until so many replicas are ready."""
        began = time.monotonic()
        async with httpx.AsyncClient(timeout=60) as client:
            while (await client.get(f"{self.address}/health")).json().get("replicas") != count:
                if time.monotonic() - began > PATIENCE:
                    raise SystemExit(f"There were never {count} replicas: {self.logged()}")
                await asyncio.sleep(0.2)
        return time.monotonic() - began

    def end(self) -> int:
        """The exit code after SIGTERM."""
        self.run.send_signal(signal.SIGTERM)
        return self.run.wait(PATIENCE)


async def whole(client: httpx.AsyncClient, tokens: int) -> str:
    """What became of a request for a whole answer."""
    body = {"prompt": "a", "max_tokens": tokens, "logit_bias": ENDLESS}
    response = await client.post("/v1/completions", json=body)
    if response.status_code != 200:
        return f"refused with {response.status_code} {response.json()['error']['code']}"
    return "answered" if response.json()["choices"][0]["text"] == "x" * tokens else "answered with another text"


async def streamed(client: httpx.AsyncClient, tokens: int, begin: Callable[[], None]) -> str:
    """What became of a request for a stream; `begin` is called with each line."""
    body = {
        "messages": [{"role": "user", "content": "a"}], "max_tokens": tokens, "logit_bias": ENDLESS, "stream": True,
    }  # fmt: skip
    text, error, done = "", None, False
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                return f"refused with {response.status_code} {json.loads(await response.aread())['error']['code']}"
            async for line in response.aiter_lines():
                begin()
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    content = json.loads(line.removeprefix("data: "))
                    error = content.get("error") or error
                    text += "".join(choice["delta"].get("content") or "" for choice in content.get("choices", []))
    except httpx.HTTPError as failure:
        return f"broken by {type(failure).__name__}"
    if error is not None:
        return f"ended by an error {error['type']} {error['code']} {'within its text' if text else 'before its text'}"
    return "streamed whole" if done and text == "x" * tokens else "streamed in part without an error"


async def load(server: Server, requests: int, tokens: int) -> tuple[Counter[str], float]:
    """What became of the requests, and the seconds until both replicas were ready again."""
    begun, many, victim = set(), asyncio.Event(), server.replicas()[0]

    def begin(number: int) -> None:
        begun.add(number)
        if len(begun) >= 3 * requests // 8:  # three quarters of the streams, so that the victim has some of them
            many.set()

    async with httpx.AsyncClient(base_url=server.address, timeout=PATIENCE, limits=httpx.Limits()) as client:
        tasks = [
            asyncio.create_task(
                streamed(client, tokens, partial(begin, number)) if number % 2 else whole(client, tokens)
            )
            for number in range(requests)
        ]
        await asyncio.wait_for(many.wait(), PATIENCE)
        victim.kill()
        became = Counter(await asyncio.gather(*tasks))
    return became, await server.ready(2)


def tried_again(log: str) -> int:
    """Requests that a second replica answered."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return sum(line.get("tries", 1) > 1 and line["status"] == 200 and "error" not in line for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--quick", action="store_true", help="24 requests of 800 tokens")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    requests, tokens = (24, 800) if options.quick else (options.requests, options.tokens)
    report = harness.Report("replicas", options.out)
    with tempfile.TemporaryDirectory() as place:
        save_model(Path(place) / "tiny")
        server = Server(Path(place) / "tiny")
        try:
            ports = server.ports()
            became, seconds = asyncio.run(load(server, requests, tokens))
            code = server.end()
        finally:
            if server.run.poll() is None:
                server.run.kill()
        again = tried_again(server.logged())
    report.say(f"{requests} requests of {tokens} tokens to two replicas, one of which was killed:")
    report.table(["what became of it", "requests"], [[what, str(count)] for what, count in sorted(became.items())])
    report.say(
        f"{again} of them were answered by a second replica. After the last answer it took {seconds:.1f} s until"
    )
    report.say(f"two replicas were ready again. The server listened at {', '.join(ports)}, and ended with code {code}.")
    report.save({"became": became, "again": again, "seconds": seconds, "ports": ports, "code": code})


if __name__ == "__main__":
    main()
