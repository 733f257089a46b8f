"""Tests of the Beam job's steps."""
