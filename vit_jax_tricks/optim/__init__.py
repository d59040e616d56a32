"""Optimisers, schedules and parameter groups, all as optax transformations."""
