"""The command line: one file a verb, which parses, calls and prints; no logic of its own."""
