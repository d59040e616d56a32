"""A workdir and what is in it."""
