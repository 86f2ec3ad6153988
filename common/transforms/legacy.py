"""Translates what albumentations before 2.0 wrote into the names and units of 2.0."""

from common.transforms.catalog import Node


def translate(node: Node, where: str) -> Node:
    """Returns the node in the names of albumentations 2.0."""
    return node
