"""UIDs that follow from what an object is made of, so that making it again changes nothing."""

import hashlib
import uuid
from collections.abc import Sequence

from pydicom.uid import UID, generate_uid


class Identity:
    """What a set of objects is made of, and the UIDs that follow from it.

    Args:
        made_of: texts that name all that the objects depend on, in a fixed order.
        root: of the UIDs, such as 1.2.826.0.1.3680043.8.498; None for 2.25 with a name-based UUID
            (PS3.5 B.2), which needs no registration.
    """

    def __init__(self, made_of: Sequence[str], root: str | None = None) -> None:
        # Lengths keep ("a", "bc") and ("ab", "c") apart.
        text = "".join(f"{len(part)}:{part}" for part in made_of)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.root = root

    def uid(self, *kind: str) -> UID:
        """Return the UID of one thing of the set, such as `uid("series", "report")`."""
        name = "/".join((self.key, *kind))
        if self.root is None:
            return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}")
        return generate_uid(prefix=f"{self.root}.", entropy_srcs=[name])
