"""Evaluates an experiment on its validation rows, or on another dataset (--data_dataset)."""

from common.cli import log_to_console, run_script
from config import parse_config, recorded_config


def main() -> None:
    """Writes metrics.json and report.html, and prints a short table on stdout."""
    log_to_console()
    config = parse_config(__doc__ or "", ("general", "data"))
    folder = config.existing_experiment_folder()
    recorded = recorded_config(folder)
    from common.slices import SliceTable
    from rsna_evaluation import evaluate_experiment, evaluate_on_dataset
    from rsna_network import find_device

    flags = {"data_dataset", "data_input_folder"}
    chosen = {name: value for name, value in config.flags().items() if name in config.given & flags}
    config = recorded.with_flags(
        **chosen, n_jobs=config.general.n_jobs, device=config.general.device
    )
    table = SliceTable.load(config.dataset_folder)
    name = config.data.data_dataset
    if name == recorded.data.data_dataset:
        evaluation = evaluate_experiment(folder, table)
    else:
        evaluation = evaluate_on_dataset(
            folder, table, name, num_workers=config.general.n_jobs, device=find_device(config)
        )
    print(evaluation.summary())


if __name__ == "__main__":
    run_script(main)
