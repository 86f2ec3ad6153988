"""The task of the RSNA 2019 challenge: its labels, their order and their weights."""

LABELS = (
    "epidural",
    "intraparenchymal",
    "intraventricular",
    "subarachnoid",
    "subdural",
    "any",
)
SUBTYPES = LABELS[:-1]

# The challenge weighs `any` twice and each subtype once, and divides by their sum.
LABEL_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 2.0)
