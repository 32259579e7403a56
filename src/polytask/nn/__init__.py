"""Building blocks: tensors in, tensors out. They know nothing of tokenizers, tasks, devices or ranks."""
