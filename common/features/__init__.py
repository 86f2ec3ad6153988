"""Features of slices on disk, and the outputs of slice experiments."""
