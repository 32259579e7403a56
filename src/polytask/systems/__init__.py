"""One chapter a system: its family as a function and its published sizes as presets with their source."""
