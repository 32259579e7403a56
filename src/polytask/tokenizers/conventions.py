"""What a model of another project expects around its texts, from the files that say so.

    generation_config.json, config.json                by ids: the ends, padding, where a decoder starts
    tokenizer_config.json, special_tokens_map.json     by texts: the tokens that have a part to play
    chat_template.jinja, or in tokenizer_config.json   how a conversation is laid out
    additional_chat_templates/tool_use.jinja           the same where tools are given, if that is another template

`write` leaves files of the same names, so that a checkpoint of ours says it where other tools look for it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from polytask.errors import TokenizerError

TEMPLATES = {"default": "chat_template.jinja", "tool_use": "additional_chat_templates/tool_use.jinja"}
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Conventions:
    """ends: ids any of which closes an answer; the first one closes what the model reads or learns. pad: the id that
    fills rows. start: the id from which the decoder of an encoder-decoder goes on. tokens: texts of tokens by their
    part, {"bos_token": "<s>", ...}. template: how a conversation is laid out, in Jinja; tool_template: the same
    with tools, where that is another one.
    """

    ends: tuple[int, ...] = ()
    pad: int | None = None
    start: int | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    tool_template: str | None = None


def read(folder: Path, tokenizer: Tokenizer) -> Conventions:
    """The conventions in a model's folder. Raises TokenizerError where a file is broken."""
    said = read_json(folder / "tokenizer_config.json")
    tokens = {**_tokens(read_json(folder / "special_tokens_map.json")), **_tokens(said)}
    config = read_json(folder / "config.json")
    sources = [read_json(folder / "generation_config.json"), config, config.get("text_config"), config.get("decoder")]

    def by_id(key: str) -> list[int]:
        """What the first file that says anything says, as far as the tokenizer knows it."""
        values = next((source[key] for source in sources if isinstance(source, dict) and _given(source, key)), [])
        values = values if isinstance(values, list) else [values]
        return [i for i in values if isinstance(i, int) and i >= 0 and tokenizer.id_to_token(i) is not None]

    def by_name(name: str) -> list[int]:
        i = tokenizer.token_to_id(tokens[name]) if name in tokens else None
        return [] if i is None else [i]

    closing = by_name("eos_token")
    own = closing if config.get("model_type") == "clip" else []  # its first folders name 2, a plain sign there
    ends = sorted(own or by_id("eos_token_id") or closing, key=lambda i: i not in closing)
    pad = by_name("pad_token") or by_id("pad_token_id")
    start, templates = by_id("decoder_start_token_id"), _templates(folder, said)
    return Conventions(
        tuple(ends), pad[0] if pad else None, start[0] if start else None, tokens,
        templates.get("default"), templates.get("tool_use"),
    )  # fmt: skip


def generation(conventions: Conventions, tokenizer: Tokenizer) -> dict[str, Any]:
    """The ids as generation_config.json and config.json name them."""
    ends, begin = conventions.ends, conventions.tokens.get("bos_token")
    ids = {
        "bos_token_id": None if begin is None else tokenizer.token_to_id(begin),
        "eos_token_id": list(ends) if len(ends) > 1 else ends[0] if ends else None,
        "pad_token_id": conventions.pad,
        "decoder_start_token_id": conventions.start,
    }
    return {name: value for name, value in ids.items() if value is not None}


def write(folder: Path, conventions: Conventions, tokenizer: Tokenizer) -> None:
    """Puts the files that `read` reads into `folder`."""
    said = {"tokenizer_class": "PreTrainedTokenizerFast", **conventions.tokens}
    ids = generation(conventions, tokenizer)
    for name, content in (("tokenizer_config.json", said), ("generation_config.json", ids)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    for place, template in zip(TEMPLATES.values(), (conventions.template, conventions.tool_template), strict=True):
        if template is not None:
            (folder / place).parent.mkdir(exist_ok=True)
            (folder / place).write_text(template, encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a file, empty where there is no such file. Raises TokenizerError where it is broken."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{file}: cannot be read ({error}). Copy the file again from its source.") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{file}: holds no mapping of names to values. Copy the file again from its source.")
    return content


def _tokens(said: Mapping[str, Any]) -> dict[str, str]:
    """Tokens by their part; in older files a token is a mapping with its text as `content`."""
    values = {name: said.get(name) for name in NAMES}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _given(source: Mapping[str, Any], key: str) -> bool:
    return source.get(key) is not None


def _templates(folder: Path, said: Mapping[str, Any]) -> dict[str, str]:
    """The templates by their names; one that has none is called default."""
    found = {name: folder / place for name, place in TEMPLATES.items() if (folder / place).is_file()}
    if found:
        return {name: file.read_text(encoding="utf-8") for name, file in found.items()}
    given = read_json(folder / "chat_template.json").get("chat_template") or said.get("chat_template")
    rows = given if isinstance(given, list) else [{"name": "default", "template": given}]
    named = {str(row.get("name")): row.get("template") for row in rows if isinstance(row, dict)}
    return {name: template for name, template in named.items() if isinstance(template, str)}
