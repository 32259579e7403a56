"""A task of one's own is a YAML file; it trains, asks and evaluates like any other."""

from pathlib import Path

from polytask import get_task
from polytask.tasks import prompt

task = get_task(Path(__file__).parent / "tasks" / "sentiment.yaml")
example = {"text": "What a day!", "label": "positive"}
print("asked:   ", prompt(task, example)[0].text)
print("choices: ", ["".join(segment.text for segment in choice) for choice in task.choices(example) or []])
print("metrics: ", task.metrics([["positive"], ["negative"]], [example, {"text": "Bad.", "label": "positive"}]))
