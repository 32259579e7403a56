"""The tasks that come with polytask, one file each."""
