"""Text becomes ids and comes back exactly; structure has ids of its own that no text can produce."""

from polytask import TextTokenizer

texts = ["The dog runs up the hill.", "The cat runs down the hill.", "Der Hund läuft den Hügel hinauf."] * 20
tokenizer = TextTokenizer.train(texts, size=400)

ids = tokenizer.encode("The dog läuft 🐕 <|end|>")
print(f"{tokenizer.vocab_size} ids; this text takes {len(ids)}: {ids}")
assert tokenizer.decode(ids) == "The dog läuft 🐕 <|end|>"
assert tokenizer.special["<|end|>"] not in ids  # what a user spells is text, never structure
