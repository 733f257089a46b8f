"""Metrics over a split, and the report of a run."""
