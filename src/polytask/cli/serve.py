"""polytask serve MODEL: a server for clients of the OpenAI API."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from polytask.cli.command import pairs, settle


def _option(help: str, panel: str = "Limits", min: int | None = None) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, min=min)


MORE = Annotated[list[str] | None, typer.Option("--model", help="NAME=PATH of one more; may be given again.")]
API_KEYS = Annotated[
    str | None, typer.Option(help="A file with the keys that are let in, one a line; also POLYTASK_API_KEYS.")
]
ALLOW_HOST = Annotated[
    list[str] | None, typer.Option(help="A name that a server without keys answers to; may be given again.")
]
CACHE = Annotated[
    int | None, _option("MiB of each one's key/value cache at most; by default half of what is free.", min=1)
]
DRAFT = Annotated[
    list[str] | None,
    _option(
        "Guess ahead: ngram, or the folder of a smaller model with the same tokenizer; NAME=PATH for another model "
        "than the first, and may be given again.",
        "Loading",
    ),
]
TRUNCATE = Annotated[str | None, _option("Cut this end of a text that is too long: left or right.", "Loading")]
RAY_ADDRESS = Annotated[
    str | None, _option("A Ray cluster to join, or auto; by default one is started here.", "Replicas")
]


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint folder, or the folder of a run.")],
    name: Annotated[str | None, typer.Option(help="What clients call it; by default its folder's name.")] = None,
    more: MORE = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    api_key_file: API_KEYS = None,
    cors: Annotated[list[str] | None, typer.Option(help="An origin whose pages may ask; may be given again.")] = None,
    allow_host: ALLOW_HOST = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Let the log hold what was asked.")] = False,
    max_body: Annotated[float, _option("Megabytes of a request at most.")] = 4,
    max_prompt: Annotated[int | None, _option("Tokens of a prompt at most; by default what the model reads.")] = None,
    max_queue: Annotated[int, _option("Answers that may wait for each model.")] = 64,
    max_seconds: Annotated[float, _option("What a request may take.")] = 600,
    max_connections: Annotated[int, _option("Connections that may be open.")] = 512,
    max_requests: Annotated[int, _option("Answers that each language model writes at once.", min=1)] = 32,
    cache: CACHE = None,
    dtype: Annotated[str, _option("float32, bfloat16 or auto.", "Loading")] = "auto",
    int8: Annotated[bool, _option("Keep weights of language models in 8 bits.", "Loading")] = False,
    int4: Annotated[bool, _option("Keep weights of language models in 4 bits.", "Loading")] = False,
    draft: DRAFT = None,
    truncate: TRUNCATE = None,
    replicas: Annotated[int | None, _option("Processes that share the work (needs the extra ray).", "Replicas")] = None,
    max_replicas: Annotated[int | None, _option("How many there may be under load.", "Replicas")] = None,
    target_requests: Annotated[float, _option("Requests for each before there is another.", "Replicas")] = 8,
    replica_cpus: Annotated[float, _option("CPUs that each one gets.", "Replicas")] = 1,
    replica_gpus: Annotated[float | None, _option("GPUs of each; by default one, if any.", "Replicas")] = None,
    ray_address: RAY_ADDRESS = None,
) -> None:
    """Serve models to clients of the OpenAI API.

    For example:  polytask serve demo/model --port 8000
    """
    from polytask.serving.names import drafts, named
    from polytask.serving.server import serve as run
    from polytask.serving.settings import Settings, read_keys

    paths = named(name, model, pairs(more or [], "--model"))
    settings = Settings(
        read_keys(api_key_file), max_body * 1e6, max_prompt, max_queue, max_seconds, cors=tuple(cors or ()),
        log_prompts=log_prompts, hosts=(host, *(allow_host or ())), connections=max_connections,
    )  # fmt: skip
    loading = {
        "dtype": dtype, "int8": int8, "int4": int4, "draft": drafts(draft or (), list(paths)), "truncate": truncate,
        "max_requests": max_requests, "cache": cache and cache << 20,
    }  # fmt: skip
    if replicas is None and max_replicas is None and ray_address is None:
        run(paths, host=host, port=port, settings=settings, loading=loading, started=_started)
        return
    from polytask.serving.replicas import Replicas, serve_replicas

    least = 1 if replicas is None else replicas
    several = Replicas(least, max_replicas, target_requests, replica_cpus, replica_gpus, ray_address)
    serve_replicas(
        paths, replicas=several, host=host, port=port, settings=settings, loading=loading, started=_started
    )  # fmt: skip


def _started(address: str, held: Mapping[str, str]) -> None:
    first = f"Serving {', '.join(held)} at {address}/v1; Ctrl-C ends it when what runs has ended."
    try:
        typer.echo("\n".join([first, *(f"  {name}: {what}" for name, what in held.items())]))
    except OSError:  # a full disk, or nobody who reads: clients are served all the same
        settle()
