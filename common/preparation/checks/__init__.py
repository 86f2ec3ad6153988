"""Checks of a prepared dataset."""
