r"""Names of files as a table holds them: valid UTF-8 that leads back to the bytes on disk.

A byte that is no UTF-8 is written as `\xff`. A name that holds such a text itself gets its
backslash as `\x5c`, so that every name differs from every other; all others stay as they are.
"""

import re

_LITERAL = re.compile(r"\\(?=x(?:5c|[89a-f][0-9a-f]))")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_WRITTEN = re.compile(r"\\x(5c|[89a-f][0-9a-f])")


def name_of(path: str) -> str:
    """Return a path, as `os` gives it, as a table holds it."""
    path = _LITERAL.sub(r"\\x5c", path)
    return _NOT_UTF8.sub(lambda found: rf"\x{ord(found[0]) - 0xDC00:02x}", path)


def path_of(name: str) -> str:
    """Return the path that has this name, as `os` takes it; undoes `name_of`."""
    if "\\" not in name:
        return name
    return _WRITTEN.sub(
        lambda found: "\\" if found[1] == "5c" else chr(0xDC00 + int(found[1], 16)), name
    )
