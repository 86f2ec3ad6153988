"""The child's own side: it reads requests and writes replies until its parent is gone.

It imports nothing heavy before the first request says what is needed.
"""

import errno
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.machine import end_with_parent

Analyse = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def main() -> None:
    """Serve requests from standard input until it ends; the first one names what serves them."""
    gc.set_threshold(100_000)  # imports make a million objects that stay
    end_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Prints of libraries are no replies.

    def reply(value: Mapping[str, Any]) -> None:
        replies.write(json.dumps(value, allow_nan=False) + "\n")
        replies.flush()

    analyse: Analyse | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if analyse is None:
                analyse = import_module(request["module"]).open_analysis(request["settings"])
                reply({"ready": True})
            else:
                reply(analyse(request))
        except InputError as error:
            reply({"error" if analyse is None else "rejected": str(error)})
        except MemoryError:
            reply({"fault": "memory"})
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                reply({"outside": error.errno})
                continue
            # The text of an error can quote headers, so only its kind and place are reported.
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            reply({"error" if analyse is None else "fault": f"{type(error).__name__} at {where}"})


if __name__ == "__main__":
    main()
