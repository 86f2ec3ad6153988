"""Delivers in this process, and kills it with SIGKILL at the n-th fsync.

python tests/helpers/killed_delivery.py N PREDICTOR INPUT OUTPUT
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from delivered import START, make_deliverer


def main() -> None:
    last, predictor, source, output = int(sys.argv[1]), *map(Path, sys.argv[2:])
    deliverer, fsync, calls = make_deliverer(predictor), os.fsync, []

    def killing_fsync(number: int) -> None:
        # Those of the prepared dataset do not count.
        if "/dataset" not in os.readlink(f"/proc/self/fd/{number}"):
            calls.append(number)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(number)

    os.fsync = killing_fsync
    deliverer.deliver(source, output, START)


if __name__ == "__main__":
    main()
