"""Trainings from their flags."""
