"""Layers: `functional` holds the maths, the other files thin Flax wrappers."""
