"""Phantom heads: labelled head CT studies made from average anatomy and a seed."""
