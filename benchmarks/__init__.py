"""Benchmarks of each expensive step beside the alternative that a user would take. `make bench` runs them all."""
