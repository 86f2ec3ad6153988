"""The pipelines of recipes/: those of the systems that the recipes repeat, but for their defects.

No pipeline stretches an image to its own range, which loses absolute HU, and none of validation
draws; several of the systems did both. Pipelines without a Normalize get the mean and deviation
that the pretrained weights want.
"""

import cv2

from transforms.nodes import (
    CT_MILD,
    DISTORT,
    FIXED_WINDOWS,
    GREY_NOISE,
    HOLES,
    MIRROR,
    SHIFTED_WINDOWS,
    Node,
    affine,
    middle,
    node,
    noise,
    normalize,
    random_crop,
    removed_scalp,
    resize,
    rotate,
    scaled_windows,
    shift_and_scale,
    window_ranges,
    windows,
)

REFLECT = cv2.BORDER_REFLECT_101
FLIP = node("VerticalFlip", p=0.5)
TURN = node("RandomRotate90", p=1.0)
SWAP = node("common.albumentations.NeighborSwap", p=0.5)
HEADER_WINDOW = node(
    "common.albumentations.HeaderWindow",
    fallback_width=80.0,
    fallback_center=40.0,
    min_max_normalize=False,
    p=1.0,
)

# appian: mean and deviation of the three clipped windows of the training slices are published in
# HU; here they are parts of each window. The windows are drawn one by one where the authors
# multiplied HU once for all three. The rotation was meant for 7 of 10 images and got 5.
APPIAN_NORM = normalize(
    [round(value, 5) for value in ((13.197 - 0) / 80, (7.179 + 20) / 200, (150 - 78.954) / 380)],
    [round(value, 5) for value in (24.509 / 80, 55.063 / 200, 113.127 / 380)],
)
APPIAN = [random_crop(512), MIRROR, rotate(30, 0.7), scaled_windows(0.06), APPIAN_NORM]

TAKMANMAN_MOVED = affine(p=0.5, shift=0.0625, scale=0.1, degrees=45, border_mode=REFLECT)
TAKMANMAN_LIGHT = node(
    "RandomBrightnessContrast",
    brightness_limit=[-0.2, 0.2],
    contrast_limit=[-0.2, 0.2],
    brightness_by_max=True,
    ensure_safe_range=False,
    p=0.5,
)

# first place: one window a slice, as their code had it; the slides name three fixed ones.
FIRST_PLACE_CROP = node(
    "RandomSizedCrop",
    min_max_height=[307, 507],
    size=[256, 256],
    w2h_ratio=1.0,
    interpolation=cv2.INTER_LINEAR,
    area_for_downscale=None,
    p=1.0,
)
FIRST_PLACE_MOVED = affine(
    p=0.5, shift=0.1, scale=0.1, degrees=30, border_mode=cv2.BORDER_CONSTANT, keep_ratio=False
)
# One box of 2 to 40 % of the image.
FIRST_PLACE_ERASED = node(
    "CoarseDropout",
    num_holes_range=[1, 1],
    hole_height_range=[0.14, 0.63],
    hole_width_range=[0.14, 0.63],
    fill=0.0,
    p=0.5,
)

GAMMA = node("RandomGamma", gamma_limit=[80, 120], p=0.5)
D4_MOVED = affine(p=0.5, shift=0.1, scale=0.1, degrees=45, border_mode=REFLECT)
D4 = [resize(512), MIRROR, FLIP, TURN]
D4_TRAIN = [*D4, D4_MOVED, DISTORT, FIXED_WINDOWS, GAMMA]
# The windows of their ResNeXt101 (bone in place of soft tissue) and of their B0 at 224 pixels.
D4_RESNEXT_WINDOWS = windows((0, 0, 0), 0, (80, 200, 1000), (40, 80, 300))
D4_NARROW_WINDOWS = windows((0, 0, 0), 0, (40, 40, 40), (20, 60, 100))

RSNA_HEMORRHAGE = {
    "train": [
        random_crop(410),
        MIRROR,
        shift_and_scale(0.6, 0.125),
        rotate(45, 0.8),
        DISTORT,
        SHIFTED_WINDOWS,
        HOLES,
        GREY_NOISE,
        normalize(),
    ],
    "valid": [resize(410), FIXED_WINDOWS, normalize()],
    "tta": [random_crop(410), MIRROR, rotate(30, 0.8), DISTORT, SHIFTED_WINDOWS, normalize()],
}

BEST = [
    MIRROR,
    affine(p=0.7, shift=0.05, scale=0.1, degrees=25, border_mode=cv2.BORDER_CONSTANT),
    random_crop(512),
]

# ipan2026: the input of the published network of that name; the release says how it flips, but not
# how strong its other augmentations are.
IPAN_INPUT = [
    node("common.albumentations.FitSize", height=512, width=512, shrink_above=640, p=1.0),
]
IPAN_WINDOWS = [
    window_ranges([(80, 80), (200, 200), (2800, 2800)], [(40, 40), (80, 80), (600, 600)]),
    normalize([0.5], [0.5]),
]
IPAN_FLIPS = [node(name, p=0.25) for name in ("HorizontalFlip", "VerticalFlip")]
IPAN_FLIPS += [node("common.albumentations.NeighborSwap", p=0.25)]

# ct_ich: the bone window in place of the soft one, which shows little that the others do not.
CT_ICH_WIDTHS, CT_ICH_CENTERS = (80, 200, 2800), (40, 80, 600)
CT_ICH_TRAIN = [
    resize(192, area=True),
    MIRROR,
    SWAP,
    affine(p=0.8, shift=0.06, scale=0.12, degrees=20, border_mode=cv2.BORDER_CONSTANT),
    window_ranges(
        [(75, 85), (190, 210), (2600, 3000)],
        [(35, 45), (75, 85), (550, 650)],
    ),
    noise((0.005, 0.02), p=0.3, per_channel=False),
]
CT_ICH_VALID = [
    resize(192, area=True),
    windows((0, 0, 0), 0, CT_ICH_WIDTHS, CT_ICH_CENTERS),
]

# train_small, and mild changes of the scanner.
CT_ICH_PHYSICS = [
    removed_scalp(0.3),
    resize(192, area=True),
    MIRROR,
    affine(p=0.8, shift=0.06, scale=0.12, degrees=20, border_mode=cv2.BORDER_CONSTANT),
    *CT_MILD,
    SHIFTED_WINDOWS,
]

PIPELINES: dict[str, list[Node]] = {
    "ct_ich_physics": CT_ICH_PHYSICS,
    "ct_ich_train": CT_ICH_TRAIN,
    "ct_ich_valid": CT_ICH_VALID,
    "ipan2026_train": [*IPAN_INPUT, *IPAN_FLIPS, *IPAN_WINDOWS],
    "ipan2026_valid": [*IPAN_INPUT, *IPAN_WINDOWS],
    "appian_train": APPIAN,
    "appian_valid": [resize(512), FIXED_WINDOWS, APPIAN_NORM],
    "appian_tta": APPIAN,
    "takmanman_train": [
        resize(200, area=True),
        MIRROR,
        TAKMANMAN_MOVED,
        HEADER_WINDOW,
        TAKMANMAN_LIGHT,
    ],
    "takmanman_valid": [resize(200, area=True), HEADER_WINDOW],
    "takmanman_tta": [resize(200, area=True), MIRROR, TAKMANMAN_MOVED, HEADER_WINDOW],
    **{f"rsna_hemorrhage_{use}": nodes for use, nodes in RSNA_HEMORRHAGE.items()},
    "first_place_train": [
        resize(512),
        SWAP,
        MIRROR,
        FIRST_PLACE_MOVED,
        FIRST_PLACE_CROP,
        HEADER_WINDOW,
        FIRST_PLACE_ERASED,
    ],
    "first_place_valid": [resize(512), middle(410), resize(256), HEADER_WINDOW],
    "first_place_tta": [resize(512), SWAP, MIRROR, FIRST_PLACE_CROP, HEADER_WINDOW],
    "efficientnet_d4_train": D4_TRAIN,
    "efficientnet_d4_valid": [resize(512), FIXED_WINDOWS],
    "efficientnet_d4_tta": [*D4, FIXED_WINDOWS],
    "efficientnet_d4_resnext_train": [resize(512), middle(410), *D4[1:], D4_RESNEXT_WINDOWS],
    "efficientnet_d4_resnext_valid": [resize(512), middle(410), D4_RESNEXT_WINDOWS],
    "efficientnet_d4_224_train": [
        resize(224, area=True),
        *D4[1:],
        D4_MOVED,
        DISTORT,
        D4_NARROW_WINDOWS,
        GAMMA,
    ],
    "efficientnet_d4_224_valid": [resize(224, area=True), D4_NARROW_WINDOWS],
    "best_train": [*BEST, SWAP, SHIFTED_WINDOWS, HOLES, GREY_NOISE],
    "best_valid": [resize(512), FIXED_WINDOWS],
    "best_tta": [*BEST, SHIFTED_WINDOWS],
}
