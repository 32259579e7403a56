"""Checkpoint folders, and later the formats of other projects."""
