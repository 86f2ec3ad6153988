"""Predictors: weights with all that is needed to use them, as a folder."""
