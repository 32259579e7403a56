"""Asking: by task, by name, several samples, piece by piece, with probabilities.

python examples/05_ask.py demo/model      # a model that `make demo` left; without one, a network that knows nothing
"""

import sys

import polytask as pt


def load() -> pt.Model:
    if len(sys.argv) > 1:
        return pt.load(sys.argv[1])
    tokenizer = pt.TextTokenizer.bytes()
    config = pt.build_config("generalist", depth=2, vocab_size=tokenizer.vocab_size, context_length=256)
    return pt.Model(pt.Transformer(config).initialize(seed=0), tokenizer)


model = load()
print("to German:  ", repr(model.translate("A large red circle is at the top.", to="de", max_tokens=40)))
print("two samples:", model.generate("I see a ", max_tokens=20, temperature=1.0, seed=1, n=2))
answer = model.classify("The blue star is now furious.", labels=["happy", "angry"], details=True)
print("probability:", {label: round(share, 3) for label, share in answer.probabilities.items()})
print("streamed:    ", end="")
for piece in model.stream("chat", {"messages": [{"role": "user", "content": "Hello!"}]}, max_tokens=20, seed=2):
    print(piece.encode("unicode_escape").decode(), end="")
print()
