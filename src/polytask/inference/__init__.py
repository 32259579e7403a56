"""Asking networks: many requests in one batch, sampled, searched or scored."""
