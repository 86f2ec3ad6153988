"""The reusable part of the framework: it knows nothing of one task, and imports nothing outside.

The libraries read the variables set here when they are imported.
"""

import os
import sys

# Threads that wait by spinning take the cores from the data loaders: where both share two cores,
# a training step took twice the processor time and 1.7 times as long
# (docs/explanation/performance.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Blosc2 with more than one thread deadlocks in a forked worker of a parent that has read.
os.environ.setdefault("BLOSC_NTHREADS", "1")
# albumentations asks the network for a newer version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# MLflow sends usage statistics unless this is set before it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# Both libraries do without what is not found. The one is for a transform that nothing here uses and
# imports torch, which takes seconds; by the other OpenVINO sends usage statistics.
for _module in ("albumentations.pytorch", "openvino_telemetry"):
    sys.modules.setdefault(_module, None)  # type: ignore[arg-type]
