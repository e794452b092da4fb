"""A local SendGrid: the contacts export, its files, and what can go wrong with them.

It shares no code with the tap, so that a mistake in one is caught by the other.
"""
