"""A Flink cluster on this machine, to run the Beam job on: two task managers and Beam's own job server."""
