"""A recipe becomes a model: 40 steps on the embedded world here; `make demo` takes minutes and knows every task."""

import tempfile
from pathlib import Path

import polytask as pt

RECIPE = """
model: {system: generalist, depth: 2, dim: 64, heads: 2}
tokenizer: {kind: bpe, size: 600}
data:
  sources:
    - {task: translation, from: blocksworld, limit: 2000, options: {objects: [1, 1]}}
    - {task: code, from: blocksworld, limit: 2000, options: {objects: [1, 1]}, weight: 2}
training: {steps: 40, batch_rows: 16, context_length: 128, optimizer: muon, lr: 1e-2, log_every: 20}
"""

with tempfile.TemporaryDirectory() as folder:
    recipe = Path(folder) / "recipe.yaml"
    recipe.write_text(RECIPE)
    result = pt.train(str(recipe), ["training.warmup=5"], out=Path(folder) / "run")
    print(result)
    model = pt.load(Path(folder) / "run")
    print("a model of", f"{model.info['parameters']:,}", "parameters, trained on", model.info["tasks"])
    print(repr(model.code("Draw a small red circle at the top.", max_tokens=40)))
