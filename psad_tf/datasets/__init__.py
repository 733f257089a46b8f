"""One reader per public data set; every one yields the same raw record (`psad_tf/data/records.py`)."""
