"""From raw records and list folders to batches of encoded tensors."""
