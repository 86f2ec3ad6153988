"""Learning-rate schedules by name; a step of a schedule is an optimizer step."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR


def make_schedule(
    name: str,
    optimizer: Optimizer,
    num_steps: int,
    max_lr: float,
    min_lr: float = 0.0,
    pct_start: float = 0.3,
    warmup: float = 0.1,
) -> LRScheduler | None:
    """Returns a schedule over `num_steps` steps; None for `constant`.

    * one_cycle_lr: torch's OneCycleLR: cosine from max_lr / 25 up to max_lr over `pct_start` of the
      steps, then cosine down to max_lr / 250,000; momentum stays as it is.
    * warmup_cosine: linear from 0 to max_lr over `warmup` of the steps, then cosine to min_lr.
    """
    if name == "constant":
        return None
    if name == "one_cycle_lr":
        steps = max(num_steps, 2)
        # Neither phase may be empty: torch divides by their lengths.
        share = min(max(pct_start, 1.5 / steps), 1 - 0.5 / steps)
        return OneCycleLR(
            optimizer, max_lr, total_steps=steps, pct_start=share, cycle_momentum=False
        )
    assert name == "warmup_cosine", name
    num_warmup = round(warmup * num_steps)

    def factor(start_lr: float) -> Callable[[int], float]:
        def of_step(step: int) -> float:
            if step < num_warmup:
                return max_lr * (step + 1) / num_warmup / start_lr
            progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            return (min_lr + (max_lr - min_lr) * cosine) / start_lr

        return of_step

    return LambdaLR(optimizer, [factor(group["lr"]) for group in optimizer.param_groups])
