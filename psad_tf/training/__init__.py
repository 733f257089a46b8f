"""The trainer and what it is made of: run folder, optimizer, devices, distribution."""
