"""Inspects models and data: sheets, maps, counts and profiles."""
