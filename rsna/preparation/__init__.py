"""Datasets derived from others, and what is in them."""
