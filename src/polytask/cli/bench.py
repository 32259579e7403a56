"""polytask bench MODEL: how fast a model answers on this machine."""

import dataclasses
import json
from typing import Annotated, Any

import typer

from polytask.cli.ask import MODEL
from polytask.cli.command import console


def bench(
    model: MODEL,
    against: Annotated[
        str | None, typer.Option(help="Measure another engine beside it: hf or llama.cpp.", show_default=False)
    ] = None,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 512,
    new: Annotated[int, typer.Option(help="Tokens of the answer.")] = 128,
    tries: Annotated[int, typer.Option(help="How often; the fastest counts.")] = 3,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or auto.", show_default=False)] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Keep weights in 8 bits.")] = False,
    int4: Annotated[bool, typer.Option("--int4", help="Keep weights in 4 bits.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how fast a model reads and writes, and how much of the memory's speed that is."""
    from polytask.run import bench as room

    words = {name: value for name, value in {"dtype": dtype, "int8": int8, "int4": int4}.items() if value}
    found = room.bench(model, prompt=prompt, new=new, tries=tries, against=against, **words)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found) | {"share": found.share}))
        return
    show(console(), found)


def show(out: Any, found: Any) -> None:
    """A table of speeds, and below it what bounds them."""
    from rich.table import Table

    table = Table("", "prefill, tokens/s", "first token, ms", "decoding, tokens/s", box=None, pad_edge=False)
    for name, speed in {f"polytask, {found.kind}": found.own, **found.peers}.items():
        table.add_row(name, f"{speed.prefill:,.0f}", f"{speed.first * 1000:,.0f}", f"{speed.decoding:,.1f}")
    out.print(f"One request, {found.prompt} tokens in, {found.new} out, {found.threads} threads")
    out.print(table)
    out.print(
        f"A token reads {found.bytes_per_token / 1e6:,.0f} MB of weights; memory gives {found.bandwidth / 1e9:.1f} "
        f"GB/s: {found.share:.0%} of what that allows"
    )
    if found.kernels:
        out.print(f"Products by torch alone: {found.kernels}")
