"""The demo's report as one page that needs nothing else: the loss as a drawing, accuracies, examples."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #0a7d8c; --soft: #8884; --good: #2e8b57; --bad: #c0392b; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; } p.sub { margin-top: .2rem; opacity: .75; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: currentColor; opacity: .75; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .35rem .6rem; text-align: left; vertical-align: top; }
tr { border-bottom: 1px solid var(--soft); } td.number, th.number { text-align: right; white-space: nowrap; }
.bar { background: var(--soft); border-radius: 4px; height: .8rem; position: relative; min-width: 8rem; }
.bar b { background: var(--line); border-radius: 4px; height: 100%; display: block; }
.bar i { position: absolute; top: -3px; bottom: -3px; width: 2px; background: currentColor; }
.right { color: var(--good); } .wrong { color: var(--bad); } pre { margin: 0; white-space: pre-wrap; font-size: .9rem; }
"""


def page(report: Mapping[str, Any], losses: Sequence[tuple[int, float]], examples: Mapping[str, Sequence[Any]]) -> str:
    """HTML for `report` (as in report.json), losses as (step, nats a token), and examples by task.

    An example is a mapping with `asked`, `answer`, `wanted` and `right`.
    """
    minutes = report["seconds"] / 60
    head = f"{report['parameters']:,} parameters, trained from nothing in {minutes:.1f} minutes on this machine"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width, initial-scale=1'><title>polytask demo</title>",
        f"<style>{_STYLE}</style><h1>One model, {len(report['accuracy'])} tasks</h1><p class=sub>{escape(head)}</p>",
        "<h2>Loss</h2>",
        curve(losses),
        "<h2>Accuracy on unseen examples</h2>",
        _accuracies(report["accuracy"], report["compositional"], report["baselines"]),
        "<p class=sub>The tick marks the best of the baselines: the commonest answer, copying the question, and the "
        "answer of the most similar training example. New pairs are scenes with pairs of colour and shape that "
        "training never showed.</p>",
    ]
    for task, asked in examples.items():
        parts += [f"<h2>{escape(task)}</h2>", _examples(asked)]
    return "\n".join([*parts, "</html>\n"])


def curve(losses: Sequence[tuple[int, float]], width: int = 800, height: int = 260) -> str:
    """The loss by step as an inline SVG; "" where there are not two points to join."""
    if len(losses) < 2:
        return ""
    left, right, top, bottom = 44, width - 12, 12, height - 28
    last, high = losses[-1][0], max(value for _, value in losses)
    first = losses[0][0]

    def x(step: float) -> float:
        return left + (right - left) * (step - first) / max(1, last - first)

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / max(high, 1e-9)

    points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in losses)
    lines = []
    for tick in _ticks(high):
        lines.append(f"<line x1={left} x2={right} y1={y(tick):.1f} y2={y(tick):.1f} stroke='#8884'/>")
        lines.append(f"<text x={left - 6} y={y(tick) + 4:.1f} text-anchor=end>{tick:g}</text>")
    for tick in (first, (first + last) // 2, last):
        lines.append(f"<text x={x(tick):.1f} y={height - 8} text-anchor=middle>{tick:,}</text>")
    return (
        f"<svg viewBox='0 0 {width} {height}' role=img aria-label='Loss by training step'>{''.join(lines)}"
        f"<polyline points='{points}' fill=none stroke='var(--line)' stroke-width=2 /></svg>"
        "<p class=sub>nats a token, by training step</p>"
    )


def _ticks(high: float) -> list[float]:
    step = next(size for size in (0.1, 0.2, 0.5, 1, 2, 5, 10, 1e9) if high / size <= 6)
    return [round(step * number, 6) for number in range(int(high / step) + 1)]


def _accuracies(
    accuracy: Mapping[str, float], compositional: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> str:
    rows = ["<tr><th>task<th class=number>model<th>&nbsp;<th class=number>new pairs<th class=number>best baseline</tr>"]
    for task, share in accuracy.items():
        best = max(baselines.get(task, {"": 0.0}).values())
        bar = f"<div class=bar><b style='width:{100 * share:.1f}%'></b><i style='left:{100 * best:.1f}%'></i></div>"
        rows.append(
            f"<tr><td>{escape(task)}<td class=number>{share:.1%}<td>{bar}<td class=number>{compositional[task]:.1%}"
            f"<td class=number>{best:.1%}</tr>"
        )  # fmt: skip
    return f"<table>{''.join(rows)}</table>"


def _examples(asked: Sequence[Mapping[str, Any]]) -> str:
    rows = ["<tr><th>asked<th>answered<th>right would be</tr>"]
    for example in asked:
        kind = "right" if example["right"] else "wrong"
        cells = "".join(
            f"<td class='{style}'><pre>{escape(str(example[name]))}</pre>"
            for name, style in (("asked", ""), ("answer", kind), ("wanted", ""))
        )
        rows.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"
