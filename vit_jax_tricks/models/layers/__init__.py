"""Layers: the maths in `functional`, and thin Flax wrappers around it."""
