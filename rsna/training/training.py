"""One training from its flags: new or resumed, fitted, and its results written."""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator

from common.callbacks import CheckpointSaver, DataFingerprint, LatestOutputs
from common.checkpoint import load_checkpoint
from common.cli import script_command
from common.distributed import Processes, connected, failing_together
from common.errors import Interrupted
from common.experiment import Experiment, results_folder
from common.precision import keep_freed_memory
from common.seeding import seed_everything
from common.trackers import Tracker
from config import Config
from rsna.build import build_callbacks, checkpoint_saver
from rsna.training.kinds import build_parts
from rsna.training.lengthening import record_length
from rsna.training.parts import TrainingParts
from rsna.training.preflight import preflight
from rsna.training.results import ResultWriter
from rsna.training.tracking import monitor_command, tracking
from rsna_network import RSNANetwork

logger = logging.getLogger(__name__)


class RSNATraining:
    """A training that can be run once.

    `preflight` refuses flags, `build_parts` makes model, data and loaders, this class fits, and
    `ResultWriter` writes the results: each can be read apart.

    Args:
        parts: of the training, where they have been built for these flags already.
    """

    def __init__(self, config: Config, parts: TrainingParts | None = None) -> None:
        self.config = preflight(config)
        self.parts = build_parts(self.config) if parts is None else parts
        self.latest = LatestOutputs()

    @property
    def processes(self) -> Processes:
        return self.parts.settings.processes

    def run(self) -> Experiment:
        keep_freed_memory()
        with connected(self.processes, self.parts.settings.device):
            # No process makes the folder before all have found it free.
            self.processes.largest(0)
            experiment = self.processes.from_main(
                lambda: open_experiment(self.config, self.parts.is_resumed)
            )
            with self._open_records(experiment) as tracker, failing_together():
                self._train(experiment, tracker)
        return experiment

    def _train(self, experiment: Experiment, tracker: Tracker) -> None:
        logger.info("experiment %s in %s", experiment.id, experiment.folder)
        if self.config.chosen:
            logger.info(self.config.chosen)
        if command := monitor_command(self.config, experiment.folder):
            logger.info("to watch it: %s", command)
        parts = self.parts
        parts.log()
        saver = checkpoint_saver(self.config, experiment)
        network = self._build_network(experiment, saver, tracker)
        if parts.is_resumed:
            state = self.processes.from_main(lambda: load_checkpoint(saver.last_path))
            network.load_state_dict(state)
            logger.info("resumed after iteration %d", network.state.iteration)
            if self.processes.is_main:
                record_length(experiment, self.config)
        elif self.processes.rank:
            # The weights are the main process's; dropout must differ.
            seed_everything(self.config.general.seed + self.processes.rank)
        with naming_resume_command(self.config, experiment, saver.last_path.is_file):
            with contextlib.closing(parts.train_loader()) as train_data:
                network.fit(train_data, parts.valid_loader(), parts.subset_loader())
            ResultWriter(parts, experiment, self.latest).write(network, saver.best_path)

    def _build_network(
        self, experiment: Experiment, saver: CheckpointSaver, tracker: Tracker
    ) -> RSNANetwork:
        """Return the network with its callbacks, in the order in which they run."""
        parts, is_main = self.parts, self.processes.is_main
        averages, names = parts.averages(), parts.task.label_names
        own = build_callbacks(self.config, parts.model, names, is_main, experiment, tracker)
        fingerprint = DataFingerprint(parts.data.train.image_ids, parts.seen_values())
        return parts.make_network([*averages, *own, fingerprint, self.latest, saver])

    @contextlib.contextmanager
    def _open_records(self, experiment: Experiment) -> Iterator[Tracker]:
        """Hold lock, log and trackers for the block, in the process that writes."""
        if not self.processes.is_main:
            yield Tracker(experiment.folder)
            return
        with experiment.running(), tracking(self.config, experiment.folder) as tracker:
            yield tracker


def open_experiment(config: Config, is_resumed: bool) -> Experiment:
    """Return the experiment to go on with, or a new one."""
    results, own_id = results_folder(config.general.output_dir), config.general.experiment_id
    if is_resumed:
        return Experiment(results / str(own_id))
    return Experiment.create(results, own_id, config.to_yaml())


@contextlib.contextmanager
def naming_resume_command(
    config: Config, experiment: Experiment, can_resume: Callable[[], bool]
) -> Iterator[None]:
    """Name the command that resumes, where the block stops when that is possible."""
    output_dir = config.general.output_dir
    place = [] if output_dir == "output" else ["--output_dir", output_dir]
    command = script_command("--experiment_id", experiment.id, "--tr_resume", "1", *place)
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        if not can_resume():
            raise
        number = stop.signal_number if isinstance(stop, Interrupted) else signal.SIGINT
        is_main = Processes.from_environment().is_main
        raise Interrupted(number, command if is_main else "") from None
    except OSError as error:
        if can_resume():
            error.add_note(f"go on: {command}")
        elif config.general.experiment_id is not None:
            error.add_note(f"remove {experiment.folder} and run the same command again")
        raise
