"""Flags of the optimizer, its schedule and averages, and of the learning-rate range test."""

import itertools
from dataclasses import dataclass, field

from flags.parsing import Switch, _known, above, at_least, between, require


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are changed; every count is of optimizer steps."""

    optim: str = "adamw"
    """sgd, adam, adamw, radam, lamb or lars. Each has its own scale of learning rate and of weight
    decay: lr_finder.py suggests the former."""
    optim_lr: float = 5e-4
    """Learning rate of the schedules constant and multistep."""
    optim_momentum: float = 0.9
    """Momentum of sgd and lars."""
    optim_nesterov: Switch = 0
    """1: Nesterov momentum for sgd and lars."""
    optim_weight_decay: float = 0.05
    """Weight decay of all weights but norms and biases. For sgd, adam and lars it is a part of the
    gradient (1e-4 is usual), for the others it is not."""
    optim_layer_decay: float = 1.0
    """Factor of the learning rate from each layer to the one before; the last one has the whole."""
    optim_lookahead_enabled: Switch = 0
    """1: Lookahead around the optimizer: every 5 steps the weights go half way back."""
    optim_ema_decay: float = 0.99
    """Decay of the exponential moving average of the weights per step (0: none). It warms up
    as min(decay, (1 + step) / (10 + step)). The average is what is validated and predicted with."""
    optim_ema_bn_samples: int = 512
    """Training slices from which the batch-norm statistics of an average (EMA or SWA) are measured
    before it is used (0: the average of the statistics is taken; not with SWA)."""
    optim_swa_enabled: Switch = 0
    """1: stochastic weight averaging: the plain mean of the weights after each step from
    optim_swa_start on. Once it has begun, it is what is validated and predicted with."""
    optim_swa_start: int | None = None
    """Iterations before stochastic weight averaging begins (dev mode: that share of its own);
    none: it averages over the last quarter of the training."""
    optim_swa_lr: float = 2.5e-4
    """Learning rate of stochastic weight averaging; a cosine leads to it in the first tenth."""
    optim_scheduler: str = "one_cycle_lr"
    """constant, one_cycle_lr, warmup_cosine, cosine_restarts or multistep."""
    optim_scheduler_max_lr: float = 5e-4
    """Highest learning rate of one_cycle_lr, warmup_cosine and cosine_restarts."""
    optim_scheduler_min_lr: float = 0.0
    """Lowest learning rate of warmup_cosine and cosine_restarts."""
    optim_scheduler_pct_start: float = 0.3
    """Share of the training in which one_cycle_lr rises."""
    optim_scheduler_warmup: float = 0.1
    """Share of the training in which warmup_cosine rises."""
    optim_scheduler_num_cycles: int = 3
    """Cosines of cosine_restarts; the last one ends with the training."""
    optim_scheduler_cycle_factor: float = 1.0
    """How many times longer each cosine of cosine_restarts is than the one before."""
    optim_scheduler_gamma: float = 0.1
    """Factor of the learning rate at each milestone of multistep."""
    optim_scheduler_milestones: list[int] = field(default_factory=list)
    """Iterations at which multistep changes the learning rate, such as [200,300] (dev mode: these
    shares of its own)."""

    def __post_init__(self) -> None:
        above(self, 0, "optim_lr", "optim_scheduler_max_lr", "optim_swa_lr")
        above(self, 0, "optim_scheduler_gamma")
        at_least(self, 0, "optim_weight_decay", "optim_scheduler_min_lr", "optim_ema_bn_samples")
        if self.optim_swa_start is not None:
            at_least(self, 0, "optim_swa_start")
        at_least(self, 1, "optim_scheduler_num_cycles", "optim_scheduler_cycle_factor")
        between(self, 0, 1, "optim_momentum", "optim_scheduler_pct_start", "optim_scheduler_warmup")
        require(self, "optim_ema_decay", 0 <= self.optim_ema_decay < 1, "at least 0, less than 1")
        inside = 0 < self.optim_layer_decay <= 1
        require(self, "optim_layer_decay", inside, "greater than 0, at most 1")
        _known(self, "optim", ("sgd", "adam", "adamw", "radam", "lamb", "lars"))
        schedules = ("constant", "one_cycle_lr", "warmup_cosine", "cosine_restarts", "multistep")
        _known(self, "optim_scheduler", schedules)
        steps = self.optim_scheduler_milestones
        rising = all(before < after for before, after in itertools.pairwise([0, *steps]))
        require(self, "optim_scheduler_milestones", rising, "rising iterations, from 1 on")
        if self.optim_scheduler == "multistep":
            require(self, "optim_scheduler_milestones", steps, "some iterations, for multistep")
        if self.optim_scheduler in ("warmup_cosine", "cosine_restarts"):
            falls = self.optim_scheduler_min_lr <= self.optim_scheduler_max_lr
            require(self, "optim_scheduler_min_lr", falls, "at most --optim_scheduler_max_lr")
        if self.optim_swa_enabled:
            measured = self.optim_ema_bn_samples > 0
            require(self, "optim_ema_bn_samples", measured, "greater than 0 with SWA")


@dataclass(frozen=True)
class LRFinderConfig:
    """The learning-rate range test; its results are in <output_dir>/lr_finder/<number>."""

    lrf_start_lr: float = 1e-6
    """Learning rate of the first iteration."""
    lrf_end_lr: float = 1.0
    """Learning rate of the last iteration; the test ends early where the loss diverges."""
    lrf_iteration_num: int = 100
    """Iterations from one to the other, in equal factors."""

    def __post_init__(self) -> None:
        above(self, 0, "lrf_start_lr")
        rises = self.lrf_end_lr > self.lrf_start_lr
        require(self, "lrf_end_lr", rises, f"greater than --lrf_start_lr {self.lrf_start_lr}")
        at_least(self, 3, "lrf_iteration_num")
