"""The one trainer: a loop for every objective, its checkpoints, its logs, and what runs it over several processes."""
