"""Checkpoint folders, and the formats of other projects."""

from polytask.registry import Registry

FORMATS = Registry("format", {"hf": "polytask.interop.hf:export"})
