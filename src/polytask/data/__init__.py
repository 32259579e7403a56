"""From files to batches: sources are read and cleaned, tokenized once, mixed, packed and handed out by step."""
