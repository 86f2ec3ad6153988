"""What is fitted on predictions: blends, smoothing, boosted trees, pseudo-labels."""
