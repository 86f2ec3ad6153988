"""A prepared dataset as tables and figures: labels, headers, folds, images."""
