"""A deterministic simulation of accounts, pipelines, faults and kills; see `__main__`."""
