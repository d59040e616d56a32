"""Workdirs and their content."""
