"""Generating a list block by block."""
