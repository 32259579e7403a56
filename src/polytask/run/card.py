"""The model card that lies in every checkpoint folder."""

from collections.abc import Mapping
from typing import Any


def card(about: Mapping[str, Any]) -> str:
    """README.md of a model: tasks, data with licences, how it was made and how to ask it."""
    tasks = ", ".join(about["tasks"])
    head = [
        "---",
        "library_name: polytask",
        f"tags: [polytask, {tasks}]",
        "---",
        "",
        f"# {about['name']}",
        "",
        f"{about['parameters']:,} parameters, made with polytask on {about['date']} in {about['steps']:,} steps, "
        f"which saw {about['tokens_seen']:,} tokens.",
        f"It knows the tasks: {tasks}.",
        *([f"It goes on from {about['from']}."] if about.get("from") else []),
        "",
        "    polytask ask THIS_FOLDER TASK --FIELD ...",
        "",
        "## Data",
        "",
        "| source | task | examples | tokens | licence | attribution |",
        "|---|---|---:|---:|---|---|",
    ]
    rows = [
        f"| {item['name']} | {item['task']} | {item['examples']:,} | {item['tokens']:,} "
        f"| {item.get('licence', 'not stated')} | {item.get('attribution', '')} |"
        for item in about["data"]
    ]
    figures = [f"| {name} | {value:.4g} |" for name, value in about["figures"].items()]
    if figures:
        figures = ["", "## Figures", "", "On held-out rows:", "", "| figure | value |", "|---|---:|", *figures]
    return "\n".join([*head, *rows, *figures, "", "## Recipe", "", "```yaml", about["recipe"].rstrip(), "```", ""])


def picture_card(about: Mapping[str, Any]) -> str:
    """README.md of a network for pictures."""
    lines = [
        "---",
        "library_name: polytask",
        f"tags: [polytask, {about['system']}]",
        "---",
        "",
        f"# {about['name']}",
        "",
        f"{about['parameters']:,} parameters, made with polytask on {about['date']} in {about['steps']:,} steps, "
        f"which saw {about['pictures_seen']:,} pictures of {about['pixels']} pixels a side.",
        *([f"It draws by {_listed(about['drawing'])}, unless asked otherwise."] if about["drawing"] else []),
        "",
        "## Data",
        "",
        "| source | pictures | licence | attribution |",
        "|---|---:|---|---|",
    ]
    for item in about["data"]:
        licence, attribution = item.get("licence", "not stated"), item.get("attribution", "")
        lines.append(f"| {item['name']} | {item['pictures']:,} | {licence} | {attribution} |")
    lines += ["", *(f"- {name}: {value:.4g}" for name, value in about["figures"].items())]
    return "\n".join([*lines, "", "## Recipe", "", "```yaml", about["recipe"].rstrip(), "```", ""])


def _listed(dials: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in dials.items())
