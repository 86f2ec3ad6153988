"""Predicts a folder of DICOM files, or a prepared dataset, with an experiment or a predictor."""

import gc
from functools import partial

from common.cli import log_to_console, run_script
from config import parse_config

GROUPS = ("general", "predictor", "engine", "prediction", "views", "select")


def main() -> None:
    """Write tables of slices, series and studies, and the submission that a sample asks for."""
    log_to_console()
    gc.set_threshold(100_000)  # imports make a million objects that stay
    config = parse_config(__doc__ or "", GROUPS)
    from rsna.evaluation.folders import prediction_folders, preparing_processes

    source, _ = prediction_folders(config)
    with preparing_processes(config, source) as runner:
        # torch takes seconds to import.
        from rsna.evaluation.prediction import predict
        from rsna.evaluation.together import run_together

        for line in run_together(config, partial(predict, runner=runner)):
            print(line)


if __name__ == "__main__":
    run_script(main)
