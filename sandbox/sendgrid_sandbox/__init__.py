"""A local SendGrid: the contacts export, its files, and injectable faults.

It shares no code with the tap, so that each detects mistakes of the other.
"""
