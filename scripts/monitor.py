"""Opens the run monitor: serves the MLflow store of an output folder, and prints the addresses."""

from importlib.util import find_spec
from pathlib import Path

from common.cli import log_to_console, run_script
from common.errors import InputError
from common.experiment import experiment_id_of, fold_folders, results_folder
from common.trackers.mlflow import RUN_ID_FILE, MLflowBackend
from common.trackers.mlflow_server import mlflow_server, run_addresses
from config import Config, parse_config

GROUPS = ("general", "monitor", "monitor_page")


def main() -> None:
    """Print the addresses of a run's charts and serve them until Ctrl+C."""
    log_to_console()
    config = parse_config(__doc__ or "", GROUPS)
    folder = run_folder(config)
    uri = MLflowBackend(folder, Path(config.general.output_dir), config.monitor.mlflow_uri).uri
    if uri.startswith(("http://", "https://")):
        show(uri.rstrip("/"), folder)
        return
    if find_spec("mlflow") is None:
        raise InputError("the package mlflow is not installed: pip install -r requirements.txt")
    with mlflow_server(uri, config.monitor_page.mon_port) as (address, process):
        show(address, folder)
        print("Ctrl+C ends it", flush=True)
        status = process.wait()
    raise InputError(f"the MLflow server ended with status {status}: run the same command again")


def run_folder(config: Config) -> Path:
    """Return the folder of the newest run that MLflow has, of --experiment_id if it is given."""
    if config.general.experiment_id is not None:
        folders = [config.existing_experiment_folder()]
    else:
        folders = list(results_folder(config.general.output_dir).glob("*"))
    folders += [fold for folder in folders for fold in fold_folders(folder)]
    runs = [folder for folder in folders if (folder / RUN_ID_FILE).is_file()]
    if not runs:
        where = config.general.experiment_id or results_folder(config.general.output_dir)
        raise InputError(
            f"no run of MLflow in {where}: train with --mlflow_enabled 1 (a training that has "
            f"begun has one within a minute), or name another folder by --output_dir"
        )
    return max(runs, key=lambda folder: (folder / RUN_ID_FILE).stat().st_mtime)


def show(server: str, folder: Path) -> None:
    """Print the addresses of the run in a folder."""
    run_id = (folder / RUN_ID_FILE).read_text(encoding="utf-8").strip()
    for title, address in run_addresses(server, run_id).items():
        name = title if title == "all runs" else f"{experiment_id_of(folder)}, {title}"
        print(f"{name + ':':<20} {address}", flush=True)


if __name__ == "__main__":
    run_script(main)
