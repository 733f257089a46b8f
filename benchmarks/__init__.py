"""Benchmarks: each prints a table and writes it as JSON, and where it helps as a picture."""
