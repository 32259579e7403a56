"""Open weights of other projects: each family's configuration and its table of names, read in both directions."""
