"""How fast the tap is, and how much memory it takes: `python -m benchmarks --help`."""
