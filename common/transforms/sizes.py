"""Sizes of the images that geometric transforms make, and how to change them."""

from collections.abc import Sequence

import cv2

from common.transforms.catalog import NAME_KEY, Node, leaves, name_of, with_trait

RESAMPLING = with_trait("resample")
CROPPING = with_trait("crop")
RELATIVE = with_trait("relative")
SWAPPING = with_trait("turn")


def output_size(geometry: Sequence[Node]) -> tuple[int, int] | None:
    """Return (height, width) after the transforms, or None where it depends on the input."""
    size: tuple[int, int] | None = None
    for node in geometry:
        if name_of(node) in RESAMPLING | CROPPING and node["p"] == 1:
            size = size_of(node)
        elif size is not None and any(_may_change(leaf, size) for leaf in leaves(node)):
            size = None
    return size


def size_of(node: Node) -> tuple[int, int]:
    """Return the (height, width) that a node of `RESAMPLING` or `CROPPING` makes."""
    height, width = node["size"] if "size" in node else (node["height"], node["width"])
    return int(height), int(width)


def _may_change(leaf: Node, size: tuple[int, int]) -> bool:
    name = name_of(leaf)
    if name in RESAMPLING | CROPPING:
        return size_of(leaf) != size
    if name in SWAPPING:
        return size[0] != size[1]
    return name in RELATIVE or bool(leaf.get("fit_output")) or bool(leaf.get("crop_border"))


def resized(geometry: Sequence[Node], img_size: int) -> tuple[Node, ...]:
    """Return the transforms changed so that their images are `img_size` pixels high and wide."""
    if img_size < 1:
        raise ValueError(f"the image size must be above 0, not {img_size}")
    if output_size(geometry) == (img_size, img_size):
        return tuple(geometry)
    nodes = list(geometry)
    for position in reversed(range(len(nodes))):
        node = nodes[position]
        if name_of(node) in RESAMPLING and node["p"] == 1:
            size = (
                {"size": [img_size, img_size]}
                if "size" in node
                else {"height": img_size, "width": img_size}
            )
            changed = [*nodes[:position], {**node, **size}, *nodes[position + 1 :]]
            if output_size(changed) == (img_size, img_size):
                return tuple(changed)
            break
    resize = {
        NAME_KEY: "Resize",
        "height": img_size,
        "width": img_size,
        "interpolation": cv2.INTER_LINEAR,
        "area_for_downscale": "image",
        "p": 1.0,
    }
    return (*nodes, resize)
