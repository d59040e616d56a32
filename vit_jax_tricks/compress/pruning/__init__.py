"""Structured pruning: groups of units, their scores, and the smaller model."""
