"""Datasets whose samples depend on (seed, epoch, sample) alone, and their samplers."""
