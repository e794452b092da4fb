"""Standalone programs that the tap is compared with, one per module."""
