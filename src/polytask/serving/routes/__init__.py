"""The routes: what each takes, what it asks of a model, and how the answer is written down."""
