"""An example of any task is a list of segments, some given, some to be produced; ids and loss weights follow."""

from polytask import TASKS, TextTokenizer, get_task
from polytask.tasks import prompt
from polytask.tokenizers.encode import encode

print("tasks:", ", ".join(TASKS))
task = get_task("translation")
example = {"source": "A dog runs.", "target": "Ein Hund rennt.", "target_lang": "de"}
for segment in task.segments(example):
    print("to produce:" if segment.target else "given:     ", segment.text)

tokenizer = TextTokenizer.bytes()
encoded = encode(task.segments(example), tokenizer)
learnt = tokenizer.decode([i for i, weight in zip(encoded.ids, encoded.weights) if weight], special=True)
print("carries loss:", learnt)
assert learnt == "Ein Hund rennt.<|end|>"

shots = [{"source": "A cat.", "target": "Eine Katze.", "target_lang": "de"}]
print("asked with one shot:", [segment.text for segment in prompt(task, example, shots)])
