"""evaluate.py: an evaluation as the flags ask for it, with the flags that were recorded."""

import logging
from collections.abc import Iterator

from common.errors import InputError
from common.experiment import Experiment
from common.slices.leakage import TRAINED_ON
from common.slices.table import SliceTable
from config import OF_THE_MACHINE, Config, recorded_config
from flags.evaluation import EvaluationConfig
from flags.general import MonitorConfig
from flags.prediction import EngineConfig, ViewsConfig
from rsna.evaluation.deciding import Deciding
from rsna.evaluation.evaluation import evaluate_experiment, evaluate_on_dataset
from rsna.evaluation.prediction import predict_options
from rsna.evaluation.scoring import next_steps, predictor_info
from rsna.training.tracking import monitor_command, tracking

logger = logging.getLogger(__name__)

_VIEWS = set(ViewsConfig.__dataclass_fields__ | EngineConfig.__dataclass_fields__)
# What an evaluation takes from its own flags where they are given; the rest is as recorded.
_OWN = {"data_dataset", "data_input_folder", "device", "dev_enabled"} | OF_THE_MACHINE
_EVALUATION = set(EvaluationConfig.__dataclass_fields__)
_OWN |= set(MonitorConfig.__dataclass_fields__) | _VIEWS | _EVALUATION


def evaluate(given: Config) -> Iterator[str]:
    """Evaluate what --experiment_id or --pr_predictor names, and yield the lines to print."""
    home = given.predictor_home()
    recorded = recorded_config(home.folder) if isinstance(home, Experiment) else None
    for name in sorted(given.given - _OWN - {"experiment_id", "pr_predictor", "output_dir"}):
        logger.warning("--%s has no effect: the experiment has its own", name)
    if recorded is None and "data_dataset" not in given.given:
        raise InputError(
            "--data_dataset is missing: a predictor alone has no validation rows: say which "
            "labelled dataset to score it on"
        )
    own = {name: given.flags()[name] for name in given.given & _OWN | OF_THE_MACHINE}
    config = (recorded or given).with_flags(output_dir=given.general.output_dir, **own)
    table, dataset = SliceTable.load(config.dataset_folder), config.data.data_dataset
    how = Deciding.from_flags(config.evaluation)
    is_other = recorded is None or dataset != recorded.data.data_dataset
    if is_other or TRAINED_ON in predictor_info(home)["training"]:
        options, held_out = predict_options(config), config.evaluation.ids
        evaluation = evaluate_on_dataset(
            home, table, dataset, options, held_out, how=how, engine=config.engine.precision
        )
        yield evaluation.summary()
        return
    for flag in sorted(given.given & (_VIEWS | {"ev_held_out"})):
        logger.warning("--%s has no effect on rows that training has predicted", flag)
    with tracking(config, home.folder) as tracker:
        evaluation = evaluate_experiment(home.folder, table, how)
        tracker.start()
    yield evaluation.summary()
    yield next_steps(home.folder, monitor_command(config, home.folder))
