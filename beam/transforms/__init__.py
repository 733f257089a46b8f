"""The steps of the Beam job, one a module, each a PTransform that is tested alone."""
