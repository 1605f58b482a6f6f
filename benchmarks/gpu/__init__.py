"""The first half-hour on a GPU: its tests, then how fast it is at each step that uses it. `make test-gpu` runs it."""
