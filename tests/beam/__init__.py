"""Tests of the Beam job."""
