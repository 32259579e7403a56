"""What is wrong with a recipe, in sentences that name its lines and keys."""

import re
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from polytask.recipe.document import Document
from polytask.registry import nearest


def sentences(whole: type[BaseModel], document: Document, error: ValidationError) -> str:
    """One line for each thing that is wrong with a document of the model `whole`, at most five."""
    found: dict[str, None] = {}
    endless = set()
    for item in error.errors():
        # Unions add their branches' names to the path; keep what is in the document.
        path = _real(document.data, item["loc"], item["type"])
        if item["type"] == "finite_number":
            endless.add(path)
        elif path in endless:
            continue  # a number without end is not the whole number of the union either, which says no more
        found[f"{document.where(path)}: {_sentence(whole, path, item)}"] = None
    lines = list(found)
    return "\n".join([*lines[:5], *([f"... and {len(lines) - 5} more."] if len(lines) > 5 else [])])


def _real(data: Any, loc: tuple[Any, ...], kind: str) -> tuple[Any, ...]:
    path: list[Any] = []
    for part in loc:
        present = (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int))
        if not present and not (kind == "missing" and part == loc[-1]):
            break
        path.append(part)
        data = data[part] if present else None
    return tuple(path)


def _sentence(whole: type[BaseModel], path: tuple[Any, ...], item: Any) -> str:
    key, context, value = ".".join(map(str, path)) or "the recipe", item.get("ctx", {}), item.get("input")
    match item["type"]:
        case "extra_forbidden":
            return f"{key}: there is no such key; {_hint(whole, path)}"
        case "missing":
            return f"{key} is missing; write it."
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", context.get("expected", ""))
            return f"{key}: '{value}' is not one of {', '.join(allowed)}; {nearest(str(value), allowed)}"
        case "value_error":
            return f"{key}: {context.get('error')}."
        case _:
            wanted = item["msg"].replace("Input should be", "it must be")
            return f"{key}: {value!r} will not do: {wanted}."


def _hint(whole: type[BaseModel], path: tuple[Any, ...]) -> str:
    """The nearest key of that section, or the section that has this one."""
    section = _section(whole, path[:-1])
    known = _keys(section) if section else []
    hint = nearest(str(path[-1]), known)
    if not hint.startswith("did you mean"):
        for name, field in whole.model_fields.items():
            inner = _model(field.annotation)
            if inner and inner is not section and path[-1] in _keys(inner):
                return f"it belongs under `{name}`."
    return hint


def _section(model: type[BaseModel] | None, path: tuple[Any, ...]) -> type[BaseModel] | None:
    for part in path:
        if isinstance(part, int) or model is None:
            continue
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        model = _model(fields[part].annotation) if part in fields else None
    return model


def _model(annotation: Any) -> type[BaseModel] | None:
    """The section inside of an annotation: Data, list[Source], Cleaning | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model(part))), None)


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
