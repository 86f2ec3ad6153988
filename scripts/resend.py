"""Send what the trackers of an experiment have missed, from its metrics.jsonl."""

from common.cli import log_to_console, run_script
from config import parse_config, recorded_config
from flags.general import MonitorConfig

GROUPS = ("general", "monitor")


def main() -> None:
    """Send each value once, however often it is run, and print a line for each tracker."""
    log_to_console()
    given = parse_config(__doc__ or "", GROUPS)
    own = {name: given.flags()[name] for name in given.given & set(MonitorConfig.__annotations__)}
    place = {
        "experiment_id": given.general.experiment_id,
        "output_dir": given.general.output_dir,
    }
    config = recorded_config(given.existing_experiment_folder()).with_flags(**place, **own)
    from rsna.training.tracking import resend

    for title, (num_sent, num_known) in resend(config).items():
        print(f"{title}: {num_sent} values sent, {num_known} were there")


if __name__ == "__main__":
    run_script(main)
