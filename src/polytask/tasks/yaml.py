"""Tasks that a user writes in YAML, without touching the package.

    name: sentiment
    fields:                                   # those in the templates, unless said
      text: what to judge
      label: {help: its label, required: false, type: text}
    prompt: "Is this negative or positive? {text}"
    target: "{label}"
    choices: [negative, positive]             # or the name of a field that lists them
    metrics: [accuracy, macro_f1]             # exact_match, unless said
    primary: accuracy                         # the first metric, unless said

`{field}` stands for the field's content, `{{` and `}}` for braces. A field of type `picture` stands in a template for
the picture itself: "{image} What is this?". A field that only the target uses may be absent, as it is when the model is
asked. `base: classification` takes all that is not written here from a builtin task, `options` are that task's own.
Every mistake is a ConfigError with its line and the nearest name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from polytask.errors import ConfigError, TaskError
from polytask.registry import nearest
from polytask.tasks.metrics import EACH, METRICS
from polytask.tasks.picture import Picture
from polytask.tasks.scoring import firsts, matched, spoken
from polytask.tasks.segment import Image, Segment, Text, texts
from polytask.tasks.task import Field

KEYS = ("name", "base", "options", "fields", "prompt", "target", "choices", "metrics", "primary")
TYPES = {"text": str, "list": list[str], "picture": Picture}
MEASURES = {
    "rouge": ("rouge1", "rouge2", "rougeL"),
    "pass_at_k": ("pass@1",),
}  # metrics with other names than their own


@dataclass(frozen=True)
class YamlTask:
    """One prompt and one target, both templates; what is None comes from `base`. `source` is the YAML itself."""

    name: str
    fields: Mapping[str, Field]
    prompt: str | None
    target: str | None
    options: tuple[str, ...] | str | None  # the choices, or the field that lists them
    measures: tuple[str, ...] | None  # names in METRICS
    metric_names: tuple[str, ...]
    primary: str
    base: Any = None
    source: str = field(default="", repr=False)

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        theirs = self.base.segments(example) if self.base and None in (self.prompt, self.target) else []
        given = [segment for segment in theirs if not segment.target]
        if self.prompt is not None:
            given = laid(self.prompt, example)
        if self.target is None:
            return given + [segment for segment in theirs if segment.target]
        if any(example.get(name) is None for name in placeholders(self.target)):
            return given
        written = "".join(segment.text for segment in texts(laid(self.target, example)))
        return [*given, Text(written, target=True)]

    def choices(self, example: dict[str, Any]) -> list[list[Segment]] | None:
        if self.options is None and self.base:
            return self.base.choices(example)
        options = example.get(self.options) if isinstance(self.options, str) else self.options
        return [[Text(option, target=True)] for option in options] if options else None

    def parse(self, produced: list[Segment]) -> Any:
        return self.base.parse(produced) if self.base else spoken(produced)

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        if self.measures is None:
            return self.base.metrics(answers, examples)
        matched(self.name, answers, examples)
        golds, scores = self._references(examples), {}
        for name in self.measures:
            predictions = answers if name == "pass_at_k" else firsts(self.name, answers, examples)
            scores |= METRICS.get(name)(predictions, golds)
        return scores

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[float] | None:
        if self.measures is None:
            return self.base.per_example(answers, examples)
        each = EACH.get(self.primary)
        if each is None:
            return None
        return [each(*pair) for pair in zip(firsts(self.name, answers, examples), self._references(examples))]

    def _references(self, examples: list[dict[str, Any]]) -> list[list[str]]:
        """The target's text; where the target is one field with a list, each of its entries is right."""
        golds = []
        for number, example in enumerate(examples):
            names = placeholders(self.target or "")
            only = example.get(names[0]) if names and self.target == f"{{{names[0]}}}" else None
            targets = [segment.text for segment in texts(self.segments(example)) if segment.target]
            if not targets:
                raise TaskError(f"Task '{self.name}': example {number + 1} has no answer to compare with.")
            golds.append(list(only) if isinstance(only, list) else targets)
        return golds


def load_task(path: str | Path) -> YamlTask:
    """The task of a YAML file. Raises ConfigError with file, line and nearest name."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path}: the task file cannot be read: {reason}.") from None
    return read_task(text, str(path))


def read_task(text: str, path: str = "task") -> YamlTask:
    """The task of a YAML text; `path` names it in errors."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: this is not YAML: {getattr(error, 'problem', None) or error}.") from None
    if root is None:
        raise ConfigError(f"{path}: the file is empty; a task has: {', '.join(KEYS)}.")
    return _Reader(path).task(root, text)


def dump(task: Any) -> str:
    """The YAML of a task that `load_task` made, to be stored with a checkpoint. Raises TaskError for others."""
    if isinstance(task, YamlTask):
        return task.source
    raise TaskError(f"Task '{getattr(task, 'name', task)}' is not from a YAML file; builtin tasks are known by name.")


def placeholders(template: str) -> list[str]:
    """The names in braces, each once, in order."""
    return list(dict.fromkeys(name for _, name, _, _ in Formatter().parse(template) if name is not None))


def laid(template: str, example: Mapping[str, Any]) -> list[Segment]:
    """The template as segments: its text with the fields' contents, and its pictures where they stand."""
    segments: list[Segment] = []
    text = ""
    for literal, name, _, _ in Formatter().parse(template):
        value = example.get(name) if name is not None else None
        text += literal if isinstance(value, bytes) else literal + _written(value)
        if isinstance(value, bytes):
            segments += [Text(text.strip())] if text.strip() else []
            segments.append(Image(value))
            text = ""
    if not segments:
        return [Text(text)]
    return [*segments, Text(text.strip())] if text.strip() else segments


def _written(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else value or ""


class _Reader:
    """Reads the parts of one file; `path` is for errors, which name the line of the part."""

    def __init__(self, path: str):
        self.path = path

    def task(self, root: Any, text: str) -> YamlTask:
        top = self.mapping(root, KEYS, "a task")
        base: Any = self.base(top)
        for key in ("name", "prompt", "target"):
            if key not in top and (key == "name" or base is None):
                self.fail(root, f"'{key}' is missing; a task needs name, prompt and target, or a base")
        name = self.text(top["name"], "name")
        if not name.replace("-", "").replace("_", "").isalnum():
            self.fail(top["name"], f"'{name}' cannot be a task's name; use letters, digits, '-' and '_'")
        templates = {key: self.template(top[key], key) for key in ("prompt", "target") if key in top}
        fields = self.fields(top, templates, base)
        for key, template in templates.items():
            for placeholder in placeholders(template):
                if placeholder not in fields:
                    self.fail(
                        top[key], f"{key} names the unknown field '{placeholder}': {nearest(placeholder, fields)}"
                    )
        for placeholder in placeholders(templates.get("target", "")):
            if fields[placeholder].type is Picture:
                self.fail(top["target"], f"'{placeholder}' is a picture, which no template writes; use base: drawing")
        measures = self.measures(top, base)
        if base and measures is None:
            names, primary = base.metric_names, base.primary
        else:
            names = tuple(name for measure in measures or () for name in MEASURES.get(measure, (measure,)))
            primary = names[0]
        if "primary" in top:
            primary = self.one_of(top["primary"], "primary", names)
        choices = self.choices(top, fields)
        prompt, target = templates.get("prompt"), templates.get("target")
        return YamlTask(name, fields, prompt, target, choices, measures, names, primary, base, text)

    def base(self, top: dict[str, Any]) -> Any:
        """The builtin task that this one starts from, None without."""
        from polytask.tasks import TASKS, get_task

        if "base" not in top:
            if "options" in top:
                self.fail(top["options"], "options are those of a base, and there is none")
            return None
        fitting = [name for name in TASKS if name not in ("text", "chat")]  # those have no prompt and target
        name = self.one_of(top["base"], "base", fitting)
        nodes = self.mapping(top["options"], None, "options") if "options" in top else {}
        try:
            return get_task(name, **{key: yaml.SafeLoader("").construct_document(nodes[key]) for key in nodes})
        except TaskError as error:
            spoken_of = [nodes[word] for word in re.findall(r"\w+", str(error)) if word in nodes]
            self.fail((spoken_of or [top.get("options", top["base"])])[0], str(error))

    def fields(self, top: dict[str, Any], templates: dict[str, str], base: Any) -> dict[str, Field]:
        """The fields the file lists, after the base's; without either, those that the templates name."""
        asked = placeholders(templates.get("prompt", ""))
        answered = [name for name in placeholders(templates.get("target", "")) if name not in asked]
        found = dict(base.fields) if base else {}
        if "fields" not in top:
            return found or {
                name: Field(required=name in asked, answer=name in answered) for name in [*asked, *answered]
            }
        for name, node in self.mapping(top["fields"], None, "fields").items():
            if not name.isidentifier():
                self.fail(node, f"'{name}' cannot be a field's name; use letters, digits and '_'")
            required, kind, text = name not in answered, str, ""
            if isinstance(node, yaml.ScalarNode):
                text = "" if node.tag.endswith(":null") else node.value
            else:
                parts = self.mapping(node, ("help", "required", "type"), f"field '{name}'")
                text = self.text(parts["help"], "help") if "help" in parts else ""
                kind = TYPES[self.one_of(parts["type"], "type", TYPES)] if "type" in parts else str
                if "required" in parts:
                    required = self.one_of(parts["required"], "required", ("true", "false")) == "true"
            found[name] = Field(kind, required, text, name in answered)
        return found

    def template(self, node: Any, key: str) -> str:
        """A prompt or target; a block's last line break is not part of it."""
        template = self.text(node, key).rstrip("\n")
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            self.fail(node, f"{key}: {error}; write {{{{ and }}}} for braces")
        for _, name, spec, conversion in parts:
            if name is not None and (not name.isidentifier() or spec or conversion):
                self.fail(node, f"{key}: '{{{name}}}' is not a field's name alone; write {{{{ and }}}} for braces")
        return template

    def choices(self, top: dict[str, Any], fields: Mapping[str, Field]) -> tuple[str, ...] | str | None:
        if "choices" not in top:
            return None
        node = top["choices"]
        if isinstance(node, yaml.SequenceNode):
            options = tuple(self.text(option, "choices") for option in node.value)
            if len(set(options)) != len(options) or len(options) < 2:
                self.fail(node, "choices are two or more, all different")
            return options
        lists = [name for name, found in fields.items() if found.type == list[str]]
        return self.one_of(node, "choices", lists)

    def measures(self, top: dict[str, Any], base: Any) -> tuple[str, ...] | None:
        if "metrics" not in top:
            return None if base and not {"target", "fields"} & set(top) else ("exact_match",)
        node = top["metrics"]
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not nodes:
            self.fail(node, f"metrics is empty; there are: {', '.join(METRICS)}")
        return tuple(dict.fromkeys(self.one_of(each, "metric", METRICS) for each in nodes))

    def mapping(self, node: Any, keys: tuple[str, ...] | None, what: str) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            self.fail(node, f"{what} is written as 'key: value' lines")
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = self.text(key, "a key")
            if keys is not None and name not in keys:
                self.fail(key, f"{what} has no '{name}': {nearest(name, keys)}")
            if name in found:
                self.fail(key, f"'{name}' is written twice")
            found[name] = value
        return found

    def text(self, node: Any, what: str) -> str:
        """A scalar as it is written: `yes` and `1` are words here."""
        if not isinstance(node, yaml.ScalarNode):
            self.fail(node, f"'{what}' must be a text")
        return node.value

    def one_of(self, node: Any, what: str, names: Any) -> str:
        value = self.text(node, what)
        if value not in names:
            self.fail(node, f"{what} '{value}' is unknown: {nearest(value, names)}")
        return value

    def fail(self, node: Any, message: str) -> Any:
        end = "" if message.endswith((".", "?")) else "."
        raise ConfigError(f"{self.path}:{node.start_mark.line + 1}: {message}{end}")
