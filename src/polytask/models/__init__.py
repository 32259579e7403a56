"""Whole networks: token ids in, hidden states and logits out."""
