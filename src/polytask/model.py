"""What a user holds: a network with its tokenizer and tasks, to be asked anything.

model = polytask.load("demo/model")
model.translate("A dog runs.", to="de")
model.ask("answering", {"question": "...", "context": "..."})
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from polytask import runtime
from polytask.errors import ConfigError, TaskError, TooLong, cannot
from polytask.inference import drawing
from polytask.inference.dials import expect_prompts
from polytask.inference.engine import Engine
from polytask.inference.handle import Handle
from polytask.inference.looking import look
from polytask.inference.matching import Matcher
from polytask.inference.room import Room
from polytask.inference.sampling import Sampling
from polytask.inference.scoring import Score, probabilities
from polytask.inference.sequence import Completion, Request
from polytask.inference.shortening import Truncate, shortened
from polytask.inference.speculative import Draft
from polytask.interop import FORMATS, networks
from polytask.interop.folder import load_network, read_folder, write_folder
from polytask.models import cost
from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.models.vision_language import VisionLanguage
from polytask.nn.quant import QuantizedLinear, quantize
from polytask.registry import expect_known
from polytask.tasks import TASKS, Segment, Task, check, get_task
from polytask.tasks import prompt as prompt_of
from polytask.tasks.picture import at_home, to_picture
from polytask.tasks.scoring import written
from polytask.tasks.segment import to_draw
from polytask.tasks.task import draws, looks, pictorial
from polytask.tokenizers.encode import continuation_ids, prefix_length, prompt_ids, split_prompt
from polytask.tokenizers.text import TextTokenizer

SAMPLED = {"text", "chat"}  # where the likeliest text repeats itself before long (Holtzman et al. 2020)
FREE = {"temperature": 0.8, "top_p": 0.95}


@dataclass(frozen=True)
class Answer:
    """An answer with what stands behind it: the completion, or the probability of each of the given choices."""

    value: Any
    completion: Completion | None = None
    probabilities: dict[str, float] = field(default_factory=dict)


class Model:
    """A network that can be asked; it implements `inference.hooks.Answerer`.

    truncate: what to do with a text that is longer than the model reads: None refuses it, "left" and "right" cut that
    end of the longest given part and warn ("right" keeps the beginning, where most tasks say what is to be done).
    about: what the checkpoint knows of its origin. draft: "ngram", or a smaller network with its tokenizer, guesses
    several tokens ahead (see `inference.speculative`); answers stay what they are. max_requests, room: of its engine.
    """

    def __init__(
        self, network: Transformer | VisionLanguage, tokenizer: TextTokenizer, *,
        tasks: Mapping[str, Task] | None = None, about: Mapping[str, Any] | None = None,
        truncate: Truncate | None = None, draft: Draft = None, max_requests: int = 32, room: Room | None = None,
    ):  # fmt: skip
        if truncate not in (None, "left", "right"):
            raise ConfigError(f"truncate={truncate!r} must be None, 'left' or 'right'.")
        self.network, self.tokenizer = network, tokenizer
        self.truncate: Truncate | None = truncate
        self.tasks, self.about = dict(tasks or {}), dict(about or {})
        self.engine = Engine(network.decoder, tokenizer, max_requests, room=room, draft=draft)

    @classmethod
    def load(
        cls, path: str | Path, *, dtype: str = "auto", int8: bool = False, int4: bool = False, device: str = "auto",
        adapter: str | Path | None = None, truncate: Truncate | None = None, draft: str | Path | None = None,
        check: bool = True, max_requests: int = 32, cache: int | None = None,
    ) -> "Model":  # fmt: skip
        """The model of a checkpoint folder, or of a run's. Raises CheckpointError, ConfigError, TokenizerError.

        dtype: "auto" is bfloat16 on a GPU and float32 elsewhere; beside int8 or int4, weights of linear layers in 8 or
        4 bits, whose answers are rounded anyway, it is what the machine multiplies faster. adapter: a folder of LoRA
        weights, written here or by peft, to be added to the model's own. draft: "ngram", or the folder of a smaller
        model with the same tokenizer. check: whether the folder's checksums are verified, which reads all of it.
        max_requests: answers that are written at once. cache: bytes of keys and values at most, as far as memory is
        free; by default half of that.
        """
        if int8 and int4:
            raise ConfigError("int8 and int4 exclude each other: weights are kept in 8 bits or in 4.")
        place = runtime.pick_device(device)
        folder = read_folder(path, check=check)
        precision = getattr(torch, (runtime.pick_products if int8 or int4 else runtime.pick_precision)(dtype, place))
        # Adapters are added in float32, where small changes are not lost, and weights are rounded once alone.
        whole = adapter is not None or ((int8 or int4) and dtype == "auto" and place.type == "cpu")
        network = load_network(folder, dtype=torch.float32 if whole else precision, device=str(place))
        if adapter is not None:
            from polytask.training import adapters

            adapters.load(network, adapter)
            adapters.merge(network)
        if int8 or int4:
            quantize(network, 8 if int8 else 4)
        network = network.to(precision)
        tasks = {file.stem: get_task(file) for file in folder.task_files}
        guesses: Draft = None if draft is None else "ngram"
        if draft not in (None, "ngram"):
            small = read_folder(draft)
            guesses = load_network(small, dtype=precision, device=str(place)).decoder.eval(), small.tokenizer
        return cls(
            network.eval(), folder.tokenizer, tasks=tasks, about=folder.about, truncate=truncate, draft=guesses,
            max_requests=max_requests, room=None if cache is None else Room(share=1.0, bytes=cache),
        )  # fmt: skip

    def save(self, path: str | Path, card: str = "") -> None:
        """Writes a checkpoint folder that `load` reads. Raises CheckpointError where that cannot be done."""
        self._expect_whole("saved")
        own = {name: source for name, task in self.tasks.items() if (source := getattr(task, "source", ""))}
        write_folder(path, self.network, self.tokenizer, card=card, about=self.about, tasks=own)

    def export(self, path: str | Path, to: str = "hf") -> None:
        """Writes the model in another project's format: "hf" is a folder that transformers, vLLM and others load.

        Raises CheckpointError where the format has no architecture for the network, or there is something at `path`.
        """
        write = FORMATS.get(to)
        self._expect_whole("exported")
        write(path, self.network, self.tokenizer)

    def _expect_whole(self, wish: str) -> None:
        if any(isinstance(module, QuantizedLinear) for module in self.network.modules()):
            raise ConfigError(f"A model in 8 or 4 bits cannot be {wish}; load it without int8 or int4.")

    @property
    def config(self) -> TransformerConfig:
        """Of what reads and writes; `network.config` is of all."""
        return self.network.config.decoder

    @property
    def info(self) -> dict[str, Any]:
        """Sizes, tasks and what the checkpoint knows of its origin."""
        return {
            "parameters": cost.parameters(self.network.config), "context_length": self.config.context_length,
            "vocab_size": self.tokenizer.size, "tasks": self.able, **self.about,
        }  # fmt: skip

    @property
    def able(self) -> list[str]:
        """The tasks that it can be asked: its own, and those of the package."""
        names, pictures, drawing = dict.fromkeys([*TASKS, *self.tasks]), self.tokenizer.pictures, self.tokenizer.drawing
        if drawing is not None and drawing.vocabulary.padding:  # a caption and its picture are all that it knows
            return [name for name in names if draws(task := self.task(name)) and not looks(task)]
        known = [name for name in names if pictures or not pictorial(self.task(name))]
        return [name for name in known if drawing or not draws(self.task(name))]

    def task(self, task: str | Path | Task) -> Task:
        """A task by its name, the model's own included, by its YAML file, or as it is. Raises TaskError."""
        if not isinstance(task, str | Path):
            return task
        return self.tasks[str(task)] if str(task) in self.tasks else get_task(task)

    # Any task

    def ask(
        self, task: str | Path | Task, example: Mapping[str, Any] | None = None, *,
        shots: Sequence[Mapping[str, Any]] = (), details: bool = False, **dials: Any,
    ) -> Any:  # fmt: skip
        """The answer to one example; a list of answers where n > 1. `dials` are fields of Sampling.

        shots: solved examples to learn from on the spot. details: an Answer instead of its value alone.
        Raises TaskError for a wrong example and ConfigError for one that is too long.
        """
        return self.ask_many(task, [example or {}], shots=shots, details=details, **dials)[0]

    def ask_many(
        self, task: str | Path | Task, examples: Sequence[Mapping[str, Any]], *,
        shots: Sequence[Mapping[str, Any]] = (), details: bool = False, **dials: Any,
    ) -> list[Any]:  # fmt: skip
        """`ask` for many examples at once, which is faster than one after another and gives the same."""
        task = self.task(task)
        asked = [prompt_of(task, example, shots) for example in examples]
        choices = [task.choices(check(task, example)) for example in examples]
        answers: dict[int, list[Answer]] = {}
        scored = [i for i, given in enumerate(choices) if given]
        answers |= zip(scored, self._choose(task, [asked[i] for i in scored], [choices[i] or [] for i in scored]))
        free = [i for i, given in enumerate(choices) if not given]
        completions = self.produce([asked[i] for i in free], self.sampling(task, **dials)) if free else []
        for i, samples in zip(free, completions):
            answers[i] = [Answer(task.parse([c.segment]), c) for c in samples]
        shown = [[a if details else a.value for a in answers[i]] for i in range(len(examples))]
        return [samples[0] if len(samples) == 1 else samples for samples in shown]

    def _choose(self, task: Task, asked: list[list[Segment]], choices: list[list[list[Segment]]]) -> list[list[Answer]]:
        scores = iter(self.score([p for p, c in zip(asked, choices) for _ in c], [one for c in choices for one in c]))
        answers = []
        for given in choices:
            shares = probabilities([next(scores) for _ in given])
            best = max(range(len(given)), key=shares.__getitem__)
            named = {written(one): share for one, share in zip(given, shares)}
            answers.append([Answer(task.parse(given[best]), None, named)])
        return answers

    def stream(
        self, task: str | Path | Task, example: Mapping[str, Any], *, shots: Sequence[Mapping[str, Any]] = (),
        **dials: Any,
    ) -> Iterator[str]:  # fmt: skip
        """The text of an answer, piece by piece as it is written. Ending the iteration early cancels it."""
        task = self.task(task)
        handle = self.submit(prompt_of(task, example, shots), self.sampling(task, **dials))
        try:
            yield from handle
        finally:
            handle.cancel()

    def sampling(self, task: str | Path | Task, **dials: Any) -> Sampling:
        """How a task is answered where `dials` do not say it: conversations and texts are sampled, others greedy."""
        task = self.task(task)
        expect_known("sampling", dials, Sampling.__dataclass_fields__)
        free = {} if task.name not in SAMPLED or dials.get("beam_size", 1) != 1 or "temperature" in dials else FREE
        return Sampling(**{**free, **dials})

    # Answerer

    def produce(self, prompts: Sequence[list[Segment]], sampling: Sampling | None = None) -> list[list[Completion]]:
        """sampling.n completions for each prompt. Raises ConfigError where one is too long and nothing may be cut."""
        sampling = sampling or Sampling()
        answers = self.engine.run([self.request(segments, sampling) for segments in prompts])
        if self.tokenizer.drawing is not None:
            drawn = [each for segments, each in zip(prompts, answers) if to_draw(segments)]
            drawing.show([one for each in drawn for one in each], self.tokenizer.drawing)
        return answers

    def score(self, prompts: Sequence[list[Segment]], continuations: Sequence[list[Segment]]) -> list[Score]:
        """How likely continuations[i], with the end that closes it, is after prompts[i]."""
        asked = [self.weighing(one, [continuation]) for one, continuation in zip(prompts, continuations, strict=True)]
        return [score for (score,) in self.engine.score(asked)]

    def weighing(self, segments: list[Segment], continuations: Sequence[list[Segment]]) -> Request:
        """What the engine is asked for how likely each of some continuations is behind one prompt."""
        wanted = [continuation_ids(continuation, self.tokenizer) for continuation in continuations]
        # The last token of a continuation is never read.
        asked = self.request(segments, Sampling(max_tokens=1), room=max(map(len, wanted)) - 1)
        more = {name: getattr(asked, name) for name in ("encoder_ids", "prefix", "given")}
        return Request.scoring(asked.ids, wanted, **more)

    def submit(self, segments: list[Segment], sampling: Sampling | None = None) -> Handle:
        """Queues one prompt; see `Engine.submit`."""
        return self.engine.submit(self.request(segments, sampling or Sampling()))

    def request(self, segments: list[Segment], sampling: Sampling, room: int | None = None) -> Request:
        """What the engine is asked for one prompt. Raises TooLong where nothing may be cut.

        room: tokens that must still fit after the prompt; None leaves what an answer usually takes.
        """
        ids, encoder_ids = self._ids(segments)
        pictures = self.tokenizer.drawing if to_draw(segments) else None
        if pictures is not None:
            room = pictures.vocabulary.tokens
        least, context = 1 if room is None else room, self.engine.reads
        if max(len(ids) + least, len(encoder_ids or [])) > context:
            if self.truncate is None:
                what = "picture" if pictures is not None else "answer"
                answer = f", and {'a' if pictures else 'an'} {what} of {room}," if room else ""
                way = "" if pictures else ", or let it be cut (pt.load(path, truncate='right'), --truncate right)"
                raise TooLong(
                    f"The text has {max(len(ids), len(encoder_ids or []))} tokens{answer} but this model reads "
                    f"{context}, {what} included: shorten it{way}.",
                    way,
                )
            wanted = min(sampling.max_tokens, context // 4) if room is None else room
            ids, encoder_ids = self._ids(segments := self._shortened(segments, wanted))
        prefix = prefix_length(segments, self.tokenizer) if self.config.prefix else 0
        if pictures is not None:
            return drawing.request(ids, pictures, sampling)
        given = None
        if self.tokenizer.sight is not None and isinstance(self.network, VisionLanguage):
            given = look(self.network, self.tokenizer.sight, segments, ids)
        continues = bool(segments) and segments[-1].target and encoder_ids is None
        return Request(ids, sampling, encoder_ids, prefix=prefix, given=given, continues=continues)

    def _ids(self, segments: list[Segment]) -> tuple[list[int], list[int] | None]:
        if self.config.encoder_layers:
            encoder_ids, ids = split_prompt(segments, self.tokenizer)
            return ids, encoder_ids
        return prompt_ids(segments, self.tokenizer), None

    def _shortened(self, segments: list[Segment], answer: int) -> list[Segment]:
        """What leaves room for `answer` tokens."""

        def over(segments: list[Segment]) -> int:
            ids, encoder_ids = self._ids(segments)
            return (len(ids) + answer if encoder_ids is None else len(encoder_ids)) - self.engine.reads

        assert self.truncate is not None
        return shortened(segments, self.tokenizer, self.truncate, over)

    # The builtin tasks by name

    def generate(self, text: str = "", **dials: Any) -> Any:
        """The continuation of a text; a whole new one where it is empty."""
        if text:
            return self.ask("text", {"text": text}, **dials)
        details = dials.pop("details", False)
        samples = self.produce([[]], self.sampling("text", **dials))[0]
        shown = [Answer(c.text, c) if details else c.text for c in samples]
        return shown[0] if len(shown) == 1 else shown

    def chat(self, messages: str | Sequence[Mapping[str, str]], system: str | None = None, **dials: Any) -> Any:
        """The assistant's next turn: `messages` is what the user says, or all turns as {role, content}."""
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        return self.ask("chat", {"messages": turns, "system": system}, **dials)

    def translate(self, text: str, to: str, from_: str | None = None, **dials: Any) -> Any:
        """The text in another language; languages by name or code."""
        return self.ask("translation", {"source": text, "target_lang": to, "source_lang": from_}, **dials)

    def answer(
        self, question: str, context: str | None = None, choices: Sequence[str] | None = None, image: Any = None,
        **dials: Any,
    ) -> Any:  # fmt: skip
        """The answer to a question, from a context, a picture, or among given choices where there are such."""
        example = {"question": question, "context": context, "choices": list(choices) if choices else None}
        return self.ask("answering", {**example, "image": at_home(image)}, **dials)

    # Pictures; those that are given are PIL images, bytes or paths

    def caption(self, image: Any, **dials: Any) -> Any:
        """What the picture shows."""
        return self.ask("captioning", {"image": at_home(image)}, **dials)

    def draw(self, prompt: str, n: int = 1, seed: int | None = None, **options: Any) -> list[Any]:
        """n pictures, PIL images, of what the prompt says: the likeliest one, or drawn by chance (temperature 1) where
        several or a seed are wanted.

        options: fields of Sampling; upper, rows: a picture whose first rows of tokens are kept, and how many (half);
        resize: whether one of another size is fitted; clip, candidates: the folder of a CLIP that takes the best n out
        of so many. Raises ConfigError, TaskError.
        """
        return self.draw_many([prompt], n, seed, **options)[0]

    def draw_many(self, prompts: Sequence[str], n: int = 1, seed: int | None = None, **options: Any) -> list[list[Any]]:
        """`draw` for many prompts at once; with a seed, they are drawn by seed, seed + 1, ..."""
        return self._drawn("drawing", [{"caption": prompt} for prompt in prompts], prompts, n, seed, options)

    def edit(
        self, image: Any, instruction: str, n: int = 1, seed: int | None = None, *, resize: bool = False, **options: Any
    ) -> list[Any]:  # fmt: skip
        """n pictures, PIL images, of the picture changed as the instruction says; options as in `draw`."""
        example = {"image": drawing.exact_for(self.tokenizer.drawing, image, resize), "instruction": instruction}
        return self._drawn("editing", [example], [instruction], n, seed, options)[0]

    def _drawn(
        self, task: str, examples: Sequence[Mapping[str, Any]], words: Sequence[str], n: int, seed: int | None,
        options: dict[str, Any],
    ) -> list[list[Any]]:  # fmt: skip
        expect_prompts(words)
        given = {name: options.pop(name) for name in drawing.WISHES if name in options}
        chance = {} if n == 1 and seed is None and not given.get("candidates") else {"temperature": 1.0}
        sampling = self.sampling(task, **{"n": given.get("candidates") or n, "seed": seed, **chance, **options})
        requests = [self.request(prompt_of(self.task(task), example), sampling) for example in examples]
        pictures = self.tokenizer.drawing
        assert pictures is not None  # else the requests were refused
        if given.get("clip") is not None:
            known = networks.read(given["clip"])
            given["clip"] = Matcher.of(networks.load(known.path, check=False), known.tokenizer, known.path)
        drawn = drawing.fulfil(self.engine, pictures, requests, drawing.Wishes(**given), n, words)
        return [[to_picture(one) for one in each] for each in drawn]

    variations = interpolate = difference = cannot(
        "This model draws token by token; variations need one that draws CLIP's embeddings, such as of system dalle2."
    )

    def summarize(self, document: str, **dials: Any) -> Any:
        """A text in short."""
        return self.ask("summarization", {"document": document}, **dials)

    def code(self, prompt: str, **dials: Any) -> Any:
        """A program that does what the prompt says, or goes on from it. It is not run."""
        return self.ask("code", {"prompt": prompt}, **dials)

    def classify(self, text: str, labels: Sequence[str] | None = None, **dials: Any) -> Any:
        """The label that fits the text best."""
        return self.ask("classification", {"text": text, "labels": list(labels) if labels else None}, **dials)

    def infill(self, text: str, **dials: Any) -> Any:
        """The text with its marks [1], [2], ... filled in."""
        from polytask.tasks.builtin.infilling import MARK, fill

        if not MARK.search(text):
            raise TaskError("Task 'infilling': mark what is to be filled in by [1], [2], ... in the text.")
        found = self.ask("infilling", {"masked": text}, **{**dials, "details": True})
        filled = [replace(a, value=fill(text, a.value)) for a in (found if isinstance(found, list) else [found])]
        shown = [answer if dials.get("details") else answer.value for answer in filled]
        return shown if isinstance(found, list) else shown[0]
