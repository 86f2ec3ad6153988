"""Processes that prepare series: one machine or many, and their limits."""
