"""Scores and predictions of experiments."""
