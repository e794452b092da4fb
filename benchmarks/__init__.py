"""Benchmarks of the tap's speed and memory: `python -m benchmarks --help`."""
