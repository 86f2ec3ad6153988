"""Blends and second levels of experiments."""
