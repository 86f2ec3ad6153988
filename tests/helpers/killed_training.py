"""Runs train.py's main in this process, and kills it with SIGKILL at a moment that is asked for.

    python tests/helpers/killed_training.py MOMENT [flags of train.py]

MOMENT is `never`, `epoch` (in mid-epoch, between two checkpoints), `validation` (between two of
its batches), `checkpoint` (last.pt is half written under its temporary name) or `second_fold` (in
mid-epoch of the second network that is trained).
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import common.files
import train
from rsna_network import RSNANetwork

torch.set_num_threads(1)
KILL_ITERATION = 7


def kill() -> None:
    """Kill this process; where it leads a session also its workers, which look for it every 5 s."""
    leads = os.getsid(0) == os.getpid()
    os.killpg(0, signal.SIGKILL) if leads else os.kill(os.getpid(), signal.SIGKILL)


def plan(moment: str) -> None:
    training_step, validation_step = RSNANetwork.training_step, RSNANetwork.validation_step
    fsync, calls = os.fsync, {"validation": 0, "fsync": 0}

    def killing_training_step(self, batch):
        if self.state.iteration == KILL_ITERATION and self.state.position > 0:
            kill()
        return training_step(self, batch)

    def killing_validation_step(self, batch):
        calls["validation"] += 1
        # The second validation, after its first batch.
        if self.state.iteration > self.state.validated > 0:
            calls["second"] = calls.get("second", 0) + 1
            if calls["second"] == 2:
                kill()
        return validation_step(self, batch)

    def killing_fsync(number):
        name = os.readlink(f"/proc/self/fd/{number}")
        if ".last.pt." in name:
            calls["fsync"] += 1
            if calls["fsync"] == 3:
                with open(name, "rb+") as file:
                    file.truncate(os.path.getsize(name) // 2)
                kill()
        return fsync(number)

    def killing_second_network(self, batch):
        networks.append(self) if self not in networks else None
        if len(networks) == 2 and self.state.iteration == KILL_ITERATION and self.state.position:
            kill()
        return training_step(self, batch)

    networks = []
    if moment == "second_fold":
        RSNANetwork.training_step = killing_second_network
    if moment == "epoch":
        RSNANetwork.training_step = killing_training_step
    elif moment == "validation":
        RSNANetwork.validation_step = killing_validation_step
    elif moment == "checkpoint":
        common.files.os.fsync = killing_fsync


if __name__ == "__main__":
    moment = sys.argv.pop(1)
    plan(moment)
    train.run_script(train.main)
