"""The Beam job: from raw logs of any size to training lists."""
