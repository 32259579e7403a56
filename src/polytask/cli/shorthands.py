"""generate, chat, translate, answer, caption, ...: `ask` with the main field as an argument."""

import json
from typing import Annotated, Any

import typer

from polytask.cli.ask import MODEL, reply
from polytask.cli.command import console
from polytask.cli.fields import example_of, stdin
from polytask.cli.sampling import Wish, with_sampling
from polytask.errors import TaskError
from polytask.tasks.picture import Picture, read_file

TEXT = Annotated[str | None, typer.Argument(help="What to work on; by a pipe where not given.", show_default=False)]
TO = Annotated[str, typer.Option(help="The language to write, by name or code.", show_default=False)]


def _ask(model: str, task: str, main: str, value: str | None, others: dict, wish: Wish) -> None:
    from polytask.run.ask import open_model
    from polytask.run.source import find_task

    chosen = find_task(model, task)
    value = value if value is not None else (stdin() or "").removesuffix("\n")
    if not value:
        raise TaskError(f"There is no {main}: give it after the model, or by a pipe.")
    reply(open_model(model, **wish.loading), chosen, example_of({main: value, **others}), wish)


@with_sampling
def generate(model: MODEL, text: TEXT = None, wish: Any = None) -> None:
    """Continue a text."""
    _ask(model, "text", "text", text, {}, wish)


@with_sampling
def translate(
    model: MODEL,
    to: TO,
    text: TEXT = None,
    origin: Annotated[str | None, typer.Option("--from", help="The language of the text.")] = None,
    wish: Any = None,
) -> None:
    """Translate a text."""
    _ask(model, "translation", "source", text, {"target_lang": to, "source_lang": origin}, wish)


@with_sampling
def answer(
    model: MODEL,
    question: TEXT = None,
    context: Annotated[str | None, typer.Option(help="A passage that holds the answer.")] = None,
    choices: Annotated[list[str] | None, typer.Option(help="The possible answers, one after another.")] = None,
    image: Annotated[str | None, typer.Option(help="The file of a picture that holds the answer.")] = None,
    wish: Any = None,
) -> None:
    """Answer a question."""
    others = {"context": context, "choices": choices, "image": read_file(image) if image else None}
    _ask(model, "answering", "question", question, others, wish)


@with_sampling
def caption(
    model: MODEL,
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="The picture's file.", show_default=False)],
    wish: Any = None,
) -> None:
    """Say what a picture shows."""
    from polytask.run.ask import open_model
    from polytask.run.source import find_task

    example = {"image": read_file(picture)}
    reply(open_model(model, **wish.loading), find_task(model, "captioning"), example, wish)


@with_sampling
def summarize(model: MODEL, document: TEXT = None, wish: Any = None) -> None:
    """Say a text in short."""
    _ask(model, "summarization", "document", document, {}, wish)


@with_sampling
def code(model: MODEL, prompt: TEXT = None, wish: Any = None) -> None:
    """Write a program."""
    _ask(model, "code", "prompt", prompt, {}, wish)


@with_sampling
def classify(
    model: MODEL,
    text: TEXT = None,
    labels: Annotated[list[str] | None, typer.Option(help="The labels, one after another or with commas.")] = None,
    image: Annotated[str | None, typer.Option(help="A picture's file, in place of a text.")] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="Of a CLIP: a text with {} for the label; several are averaged; or: published."),
    ] = None,
    wish: Any = None,
) -> None:
    """Choose a label for a text, or for a picture by a CLIP or a model that reads pictures.

    For example:  polytask classify runs/clip-blocks --image picture.png --labels "a green circle,a blue square"
    """
    if labels is not None and len(labels) == 1:
        labels = [part.strip() for part in labels[0].split(",") if part.strip()]
    if image is not None:
        _classify_picture(model, read_file(image), labels, template, wish)
        return
    _ask(model, "classification", "text", text, {"labels": labels}, wish)


def _classify_picture(
    model: str, image: Picture, labels: list[str] | None, template: list[str] | None, wish: Wish
) -> None:
    from polytask import runtime
    from polytask.run.ask import classified, data_url, open_any

    runtime.prepare()
    answer = classified(open_any(model, **wish.loading), image, labels, template)
    if not wish.as_json:
        typer.echo(answer.value)
        return
    said = {"task": "classification", "example": {"image": image, "labels": labels}, "answer": answer.value}
    typer.echo(json.dumps(said | {"probabilities": answer.probabilities}, ensure_ascii=False, default=data_url))


@with_sampling
def chat(
    model: MODEL,
    text: Annotated[str | None, typer.Argument(help="What you say; without it, a conversation.")] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    wish: Any = None,
) -> None:
    """Talk with a model."""
    from polytask.run.ask import open_model
    from polytask.run.source import find_task

    task = find_task(model, "chat")
    piped = stdin() if text is None else None
    said = text if text is not None else piped
    # A conversation forgets its oldest turns where it gets too long.
    opened = open_model(model, **({} if said is not None else {"truncate": "left"}) | wish.loading)
    if said is not None:
        if not said.strip():
            raise TaskError("Nothing was said; give a TEXT, or pipe one in.")
        messages = [{"role": "user", "content": said.removesuffix("\n")}]
        reply(opened, task, example_of({"messages": messages, "system": system}), wish)
        return
    converse(opened, system, wish.sampling)


def converse(model: Any, system: str | None, sampling: dict[str, Any]) -> None:
    """Turns of a person and the model until an empty line or Ctrl-D; what the model says appears as it is written."""
    from polytask.run.ask import stream

    out = console()
    out.print("[dim]An empty line ends the conversation.[/]")
    messages: list[dict[str, str]] = []
    while True:
        try:
            said = out.input("[bold]> [/]").strip()
        except EOFError:
            return
        if not said:
            return
        messages.append({"role": "user", "content": said})
        written = ""
        for piece in stream(model, "chat", example_of({"messages": messages, "system": system}), sampling):
            typer.echo(piece, nl=False)
            written += piece
        typer.echo()
        messages.append({"role": "assistant", "content": written.strip()})


VERBS = {
    "generate": generate,
    "chat": chat,
    "translate": translate,
    "answer": answer,
    "caption": caption,
    "summarize": summarize,
    "code": code,
    "classify": classify,
}
