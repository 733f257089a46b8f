"""Teacher, student, their joint training, and the baselines."""
