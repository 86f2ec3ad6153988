import pytest
import torch
from torch import nn

from common.optim import make_schedule


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 600])
@pytest.mark.parametrize("pct_start", [0.0, 0.3, 1.0])
def test_one_cycle_fits_any_number_of_steps(num_steps, pct_start):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    schedule = make_schedule("one_cycle_lr", optimizer, num_steps, 1.0, pct_start=pct_start)
    for _ in range(num_steps):
        assert 0 <= optimizer.param_groups[0]["lr"] <= 1.0 + 1e-9
        optimizer.step()
        schedule.step()
