"""Evaluates an experiment on its validation rows, or on another dataset (--data_dataset)."""

import logging

from common.cli import log_to_console, run_script
from config import parse_config, recorded_config
from flags.general import MonitorConfig
from flags.prediction import ViewsConfig

logger = logging.getLogger(__name__)

# What an evaluation takes from its own flags where they are given; the rest is as recorded.
FLAGS = {"data_dataset", "data_input_folder", "n_jobs", "device", "dev_enabled"}
FLAGS |= set(MonitorConfig.__dataclass_fields__) | set(ViewsConfig.__dataclass_fields__)


def main() -> None:
    """Writes metrics.json and report.html, and prints a short table on stdout."""
    log_to_console()
    given = parse_config(__doc__ or "", ("general", "data", "views", "monitor"))
    folder = given.existing_experiment_folder()
    recorded = recorded_config(folder)
    own = {name: given.flags()[name] for name in given.given & FLAGS}
    for name in sorted(given.given - FLAGS - {"experiment_id", "output_dir"}):
        logger.warning("--%s has no effect: the experiment has its own", name)
    config = recorded.with_flags(output_dir=given.general.output_dir, **own)
    from common.slices.table import SliceTable
    from rsna.build import find_device
    from rsna.evaluation.evaluation import evaluate_experiment, evaluate_on_dataset
    from rsna.evaluation.scoring import next_steps, summary
    from rsna.training.tracking import monitor_command, tracking

    table = SliceTable.load(config.dataset_folder)
    name = config.data.data_dataset
    if name != recorded.data.data_dataset:
        evaluation = evaluate_on_dataset(
            folder,
            table,
            name,
            num_workers=config.general.n_jobs,
            device=find_device(config),
            views=config.views,
            seed=config.general.seed,
        )
        print(summary(evaluation.metrics, evaluation.report))
        return
    for flag in sorted(given.given & set(ViewsConfig.__dataclass_fields__)):
        logger.warning("--%s has no effect on rows that training has predicted", flag)
    with tracking(config, folder) as tracker:
        evaluation = evaluate_experiment(folder, table)
        tracker.start()
    print(summary(evaluation.metrics, evaluation.report))
    print(next_steps(folder, monitor_command(config, folder)))


if __name__ == "__main__":
    run_script(main)
