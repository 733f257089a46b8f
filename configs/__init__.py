"""Presets of the training configuration, a JSON file each: `psad train --config movielens`."""
