"""Every flag of every script: one typed dataclass per group, whose field names are the flags.

A flag is declared once, here: its type and rule are checked when a script starts, its docstring is
its help. Importing this module parses nothing and makes nothing.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from common.directions import direction_of
from common.errors import InputError
from common.flags import at_least, between, parse_flags, require
from common.kaggle_client import is_competition
from common.views import view_names
from config_checks import refuse_unusable, warn_about_flags

Switch = Literal[0, 1]
Group = TypeVar("Group")


@dataclass(frozen=True)
class GeneralConfig:
    """What every script shares."""

    experiment_id: str | None = None
    """Experiment to go on with, evaluate or predict with; a new training takes a free one."""
    seed: int = 4667
    """Seed of everything random: sampling, augmentation, initial weights."""
    dev_enabled: Switch = 0
    """1: a quick round for debugging: few studies and iterations, no monitor but the local log."""
    dev_num_studies: int = 12
    """Dev mode: the most studies that are used."""
    dev_iteration_num: int = 20
    """Dev mode: the most iterations that are trained."""
    n_jobs: int = 2
    """Processes for preprocessing and for loading data (0: load in the main process)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes a GPU when there is one."""
    output_dir: str = "output"
    """Folder of all results: <output_dir>/results/<experiment_id>."""

    def __post_init__(self) -> None:
        between(self, 0, 2**63 - 1, "seed")
        at_least(self, 0, "n_jobs")
        at_least(self, 1, "dev_num_studies", "dev_iteration_num")
        require(
            self,
            "experiment_id",
            self.experiment_id is None
            or re.fullmatch(r"[A-Za-z0-9_-]+(/fold_\d+)?", self.experiment_id),
            "letters, digits, _ and - only, such as 0001, or 0001/fold_2 for one of all folds",
        )


@dataclass(frozen=True)
class DataConfig:
    """Which slices are used, and how they become images."""

    data_dataset: str = "demo"
    """Name of a prepared dataset: <data_input_folder>/datasets/<name>."""
    data_fold: int | Literal["all"] = 0
    """Fold to validate on; the others are trained on. all: a training for each fold, and tables of
    what each predicts of the patients that it has not seen."""
    data_leave_out_fold: int | None = None
    """Fold that is neither trained nor validated on, for nested stacking (ensemble.py
    --stack_nested 1), which prints the commands. Slice models only."""
    data_input_folder: str = "input"
    """Folder of all input."""
    data_train_transform: str = "train_small"
    """Training transform: a name in transforms/ or the path of a JSON file."""
    data_valid_transform: str = "valid_small"
    """Transform of validation and prediction; it may hold nothing random."""
    data_test_transform: str = "tta_small"
    """Transform of the extra passes of test-time augmentation (--pr_tta)."""
    data_sampler: Literal["balanced", "pos_range", "slices_per_study"] | None = None
    """How training slices are drawn (none: each once an epoch). balanced: all positive slices and
    as many negative ones, which change from epoch to epoch; pos_range: the share of positive ones
    falls over the training; slices_per_study: a few of each study, more often from its middle."""
    data_sampler_pos_start: float = 0.40
    """pos_range: share of positive slices at the start of the training."""
    data_sampler_pos_end: float = 0.14
    """pos_range: share of positive slices at its end."""
    data_sampler_num_slices: int = 4
    """slices_per_study: slices of each study in an epoch."""
    data_img_size: int = 0
    """Side of the square image the network sees, in pixels (0: as the transforms say)."""
    data_transform_device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where training images are made of HU: cuda makes them in batches on the GPU that the network
    runs on, auto does so where it runs on one. Validation and prediction make theirs on the CPU."""
    data_neighbors: int = 0
    """Slices on each side that are channels beside the slice itself: 1 makes nine channels of three
    windows, slice by slice. Past either end of a series its last slice is repeated."""
    data_neighbor_mm: float = 0.0
    """Neighbours are the slices nearest to this distance in mm, twice it and so on, whatever lies
    between (0: those next in the series, as also where slices have no position)."""

    data_features: str | None = None
    """Study networks: the slice experiments (of --data_fold all) that they see the outputs of, such
    as 0003 or 0003,0004."""
    data_study_thin: float = 0.25
    """Study, joint and volume networks: share of series of which training leaves every second slice
    out."""
    data_study_reverse: float = 0.5
    """Study, joint and volume networks: share of series that training sees from the other end."""
    data_study_crop: int = 0
    """Study, joint and volume networks: the most slices of a series in a training sample (0:
    all)."""
    data_volume_spacing: float = 0.0
    """Volume networks: pixels of this many mm on a grid of data_img_size, before the transform
    (0: pixels as they are)."""

    def __post_init__(self) -> None:
        between(self, 0, 10, "data_neighbors")
        between(self, 0, 100, "data_neighbor_mm")
        at_least(self, 0, "data_img_size", "data_study_crop")
        between(self, 0, 1, "data_study_thin", "data_study_reverse")
        require(
            self,
            "data_features",
            self.data_features is None
            or re.fullmatch(r"[A-Za-z0-9_-]+(,[A-Za-z0-9_-]+)*", self.data_features),
            "ids of experiments with commas between them, such as 0003,0004",
        )
        at_least(self, 1, "data_sampler_num_slices")
        spacing = self.data_volume_spacing
        usable = spacing == 0 or (0.1 <= spacing <= 5 and self.data_img_size > 0)
        rule = "0, or from 0.1 to 5 mm and with --data_img_size"
        require(self, "data_volume_spacing", usable, rule)
        start, end = self.data_sampler_pos_start, self.data_sampler_pos_end
        require(self, "data_sampler_pos_start", 0 < start < 1, "greater than 0, less than 1")
        rule = f"greater than 0, at most --data_sampler_pos_start {start}"
        require(self, "data_sampler_pos_end", 0 < end <= start, rule)
        if isinstance(self.data_fold, int):
            at_least(self, 0, "data_fold")
        if self.data_leave_out_fold is not None:
            at_least(self, 0, "data_leave_out_fold")
            other = self.data_leave_out_fold != self.data_fold
            require(self, "data_leave_out_fold", other, "another fold than --data_fold")
        require(
            self,
            "data_dataset",
            re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.data_dataset),
            "letters, digits, _, . and - only: it names a folder",
        )


@dataclass(frozen=True)
class PreprocessingConfig:
    """How DICOM becomes a dataset."""

    pre_source: Literal["demo", "rsna", "ct_ich", "cq500", "dicom"] = "demo"
    """Kind of the data in pre_folder; demo makes its own."""
    pre_folder: str | None = None
    """Folder of the original files (demo: made there; default <data_input_folder>/demo); for dicom
    also a zip archive."""
    pre_num_folds: int = 5
    """Number of patient folds."""
    pre_fold_seed: int = 4667
    """Seed of the folds."""
    pre_valid_fraction: float = 0.0
    """Share of the patients that one split validates on, as --data_fold 0, instead of folds (0)."""
    pre_fold_by: Literal["patient", "source"] = "patient"
    """source: each fold is what one folder directly in pre_folder holds, such as one hospital, for
    external validation."""
    pre_drop_overlap: Switch = 0
    """1: training slices of patients that are in the test too are not trained on."""
    pre_address: str | None = None
    """Address of a Dask scheduler whose workers do the work, such as tcp://host:8786, in place of
    n_jobs processes of this machine. docs/preprocessing_cluster.md tells what they need."""
    pre_series_timeout_s: float = 900
    """Seconds that a series, or the header of a file, may take before it is given up (0: no
    limit). Not with --n_jobs 0."""
    pre_series_memory_mb: float = 4000
    """Memory in MB that a process may take for one series before it is given up (0: no limit but
    an equal share of this machine's). Not with --n_jobs 0."""
    pre_check: Switch = 0
    """1: verify the prepared dataset instead of preparing it; status 3 where something is wrong."""
    pre_report: Switch = 0
    """1: write report.html about the dataset into its folder. A prepared dataset needs neither
    pre_source nor pre_folder."""
    pre_brain_min: float = 0.0
    """Leave training slices out of training that lie below the first or above the last slice of
    their series with this share of pixels from 0 to 80 HU, such as 0.05 (0: none)."""
    pre_head_crop: Switch = 0
    """1: set what is not head to air, and cut each series to the box of its head."""
    pre_spacing: float = 0.0
    """Resample slices to this pixel spacing in mm (0: as they are)."""
    pre_size: int = 0
    """Store slices of this many rows and columns (0: as they are): padded to a square and resized,
    or, with --pre_spacing, padded or cut around the middle."""
    pre_export: Literal["npy", "png"] | None = None
    """Write an 8-bit image per slice: npy in the window of its header, stretched to 0-255 for each
    image (as takmanman did; absolute HU are lost), or png in fixed windows."""
    pre_export_folder: str | None = None
    """Folder of these images (default: export_<kind> in the folder of the dataset)."""
    pre_export_windows: list[str] = field(default_factory=lambda: ["brain", "subdural", "soft"])
    """Windows of png: brain, subdural, soft, bone or header; three become red, green and blue,
    such as [brain,subdural,bone], one becomes grey."""

    def __post_init__(self) -> None:
        at_least(self, 2, "pre_num_folds")
        require(self, "pre_brain_min", 0 <= self.pre_brain_min < 1, "at least 0, less than 1")
        require(
            self,
            "pre_spacing",
            self.pre_spacing == 0 or 0.1 <= self.pre_spacing <= 5,
            "0, or from 0.1 to 5 mm",
        )
        require(
            self,
            "pre_size",
            self.pre_size == 0 or 32 <= self.pre_size <= 2048,
            "0, or from 32 to 2048 pixels",
        )
        inside = 0 <= self.pre_valid_fraction < 1
        require(self, "pre_valid_fraction", inside, "at least 0, less than 1")
        by_patient = not self.pre_valid_fraction or self.pre_fold_by == "patient"
        require(self, "pre_fold_by", by_patient, "patient with --pre_valid_fraction")
        windows = self.pre_export_windows
        known = set(windows) <= {"brain", "subdural", "soft", "bone", "header"}
        rule = "one or three of brain, subdural, soft, bone, header"
        require(self, "pre_export_windows", known and len(windows) in (1, 3), rule)
        at_least(self, 0, "pre_fold_seed", "pre_series_timeout_s", "pre_series_memory_mb")
        address_ok = self.pre_address is None or re.fullmatch(
            r"(tcp|tls)://.+:\d+", self.pre_address
        )
        require(self, "pre_address", address_ok, "of a Dask scheduler, such as tcp://host:8786")


@dataclass(frozen=True)
class NetworkConfig:
    """Which network is trained, and from which weights."""

    net_model: str = "tf_efficientnet_lite0"
    """rsna-<family>-<variant>, such as rsna-seresnext-50.32.4d, or the name of any timm model; or
    study-bigru, study-lstm, study-first_place, study-transformer over the outputs of slice
    experiments (--data_features); or joint-<slice network>, a slice network and a transformer over
    the series trained as one; or volume-resnet10, volume-resnet18, in 3D."""
    net_pretrained: Switch = 1
    """1: start from ImageNet weights; 0: from random ones."""
    net_weight_file: str | None = None
    """Checkpoint or plain state dict to start from. With --data_fold all, {fold} in it stands for
    the number of each fold. Weights whose training, as recorded in their experiment's folder, saw
    what is validated are refused."""
    net_num_classes: int = 6
    """6: the labels of the challenge; 1: any hemorrhage alone."""
    net_drop_rate: float = 0.2
    """Dropout before the last layer."""
    net_num_dropouts: int = 1
    """Draws of that dropout while training, whose losses are averaged (multi-sample dropout)."""
    net_pooling: Literal["own", "avg", "max", "concat", "gem"] = "own"
    """How the feature map becomes features: as the backbone does by itself, its average, maximum,
    both beside each other, or generalized mean with a learnt exponent."""
    net_head: Literal["linear", "mlp", "narrow"] = "linear"
    """What makes logits of the features: one layer; a hidden one of 512 between batch norms (that
    of fastai); or hidden ones of 128 and 32."""
    net_drop_path_rate: float = 0.0
    """Stochastic depth, for backbones that have it."""
    net_study_inputs: Literal["logits", "both"] = "logits"
    """What a study network sees of a slice beside gaps and rank: the logits of the slice networks,
    or their features too."""
    net_study_dim: int = 128
    """Study networks: channels of a slice between layers."""
    net_study_hidden: int = 96
    """Study networks: units of each direction of a GRU or LSTM."""
    net_study_layers: int = 2
    """Study networks: recurrent or attention layers."""
    net_study_heads: int = 4
    """study-transformer: attention heads."""
    net_study_feature_drop: float = 0.5
    """Study networks: share of the features that training leaves out, the same in all slices of a
    series."""
    net_study_metadata: Switch = 1
    """1: study networks see z-gap, position, rank and number of slices."""
    net_study_auxiliary: float = 1.0
    """study-first_place: weight of the loss of the first stage."""
    net_encoder_frozen: Switch = 0
    """1: the slice network of a joint one stays as --net_weight_file has it; only the transformer
    learns."""
    net_encoder_slices: int = 0
    """Joint networks: slices that go through the slice network at once (0: all of a batch)."""
    net_encoder_checkpoint: Switch = 0
    """1: joint networks compute activations of the slice network again for the gradient: less
    memory, slower steps. Batch-norm statistics are then updated twice a step."""
    net_volume_width: int = 32
    """Volume networks: channels of the first of four stages; each next one has twice as many."""
    net_volume_mm: float = 5.0
    """Volume networks: distance in mm of the planes that series are resampled to."""

    def __post_init__(self) -> None:
        between(self, 0, 1, "net_drop_rate", "net_drop_path_rate")
        between(self, 1, 64, "net_num_dropouts")
        at_least(self, 1, "net_study_hidden", "net_study_layers", "net_study_heads")
        at_least(self, 1, "net_study_dim", "net_volume_width")
        at_least(self, 0, "net_encoder_slices")
        require(self, "net_volume_mm", 0.5 <= self.net_volume_mm <= 20, "from 0.5 to 20 mm")
        at_least(self, 0, "net_study_auxiliary")
        inside = 0 <= self.net_study_feature_drop < 1
        require(self, "net_study_feature_drop", inside, "at least 0, less than 1")
        require(
            self,
            "net_study_dim",
            not self.net_model.startswith(("study-transformer", "joint-"))
            or self.net_study_dim % (4 * self.net_study_heads) == 0,
            f"a multiple of 4 x --net_study_heads ({self.net_study_heads})",
        )
        require(
            self,
            "net_num_classes",
            self.net_num_classes in (1, 6),
            "6 (the labels of the challenge) or 1 (any alone)",
        )


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
    optim_swa_start: int = 200
    """Iterations before stochastic weight averaging begins (dev mode: that share of its own)."""
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
        for name in ("optim_lr", "optim_scheduler_max_lr", "optim_swa_lr", "optim_scheduler_gamma"):
            require(self, name, getattr(self, name) > 0, "greater than 0")
        at_least(self, 0, "optim_weight_decay", "optim_scheduler_min_lr", "optim_ema_bn_samples")
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
class TrainingConfig:
    """How long and how training runs; an iteration is an optimizer step, not a batch."""

    tr_use_amp: Switch = 0
    """1: mixed precision."""
    tr_amp_dtype: Literal["bf16", "fp16"] = "bf16"
    """Type of mixed precision; fp16 scales the loss and needs a GPU."""
    tr_iteration_num: int = 260
    """Iterations to train."""
    tr_batch_size: int = 16
    """Slices in a training batch."""
    tr_batch_size_valid: int = 64
    """Slices in a batch of validation and prediction."""
    tr_accumulation_step: int = 1
    """Batches whose gradients make one iteration."""
    tr_clip_norm: float = 1.0
    """Largest norm of the gradient (0: no clipping)."""
    tr_iteration_valid: int = 130
    """Iterations from one validation to the next (0: at the end only)."""
    tr_iteration_valid_full: int = 0
    """Iterations from one validation of the whole fold to the next; those of tr_iteration_valid
    between them are then of a fixed subset (0: all are of the whole; the last one always is)."""
    tr_valid_subset: int = 64
    """Studies in that subset, drawn from the seed, with positives of each label if there are."""
    tr_iteration_checkpoint: int = 100
    """Iterations from one last.pt to the next."""
    tr_num_best: int = 1
    """How many of the best checkpoints are kept."""
    tr_best_metric: str = "weighted_log_loss"
    """Metric of validations of the whole fold that says which are best, such as auc.any or
    f1.mean; whether smaller or greater is better is known by its name."""
    tr_max_hours: float = 0.0
    """Hours after which a run saves and stops, with status 143; --tr_resume 1 goes on, with the
    same time anew (0: no limit). Leave room for one validation."""
    tr_resume: Switch = 0
    """1: go on with --experiment_id from its last.pt."""
    tr_valid_raw: Switch = 1
    """1: where there are averages, validate the raw weights too (valid_raw_* in metrics.jsonl).
    Validation then takes twice as long."""
    tr_loss: Literal["bce", "focal"] = "bce"
    """What training minimises: bce is the metric itself, focal weighs easy slices less. Validation
    reports the metric in either case, beside the loss."""
    tr_focal_gamma: float = 2.0
    """Gamma of the focal loss (0: bce)."""
    tr_any_weight_schedule: Switch = 0
    """1: the weight of `any` in the loss is 2.6, 2.4, 2.2, 2.0 and 1.0 by fifths of the training;
    0: 2, as in the metric."""
    tr_label_smoothing: float = 0.0
    """Training labels y become y (1 - s) + s / 2; the reported metric keeps the true ones."""
    tr_channels_last: Switch = 1
    """1: images in channels-last memory, faster on CPU and on recent GPUs."""
    tr_compile: Switch = 0
    """1: compile the network with torch.compile: minutes at the start, faster steps."""
    tr_tf32: Switch = 1
    """1: a GPU may round the factors of float32 products to TF32."""
    tr_deterministic: Switch = 0
    """1: the same bits on every run on the same hardware, at some cost of speed."""
    tr_sync_bn: Switch = 0
    """1: batch norm over the batches of all processes (torchrun on GPUs)."""
    tr_features: Switch = 1
    """1: --data_fold all also writes what the networks see in slices (features/), for study models;
    at 2048 features a slice takes about 3 KB, twice."""

    def __post_init__(self) -> None:
        at_least(
            self,
            1,
            "tr_iteration_num",
            "tr_batch_size",
            "tr_batch_size_valid",
            "tr_accumulation_step",
            "tr_iteration_checkpoint",
            "tr_num_best",
        )
        at_least(self, 1, "tr_valid_subset")
        at_least(self, 0, "tr_iteration_valid", "tr_clip_norm", "tr_focal_gamma", "tr_max_hours")
        between(self, 0, 0.5, "tr_label_smoothing")
        require(
            self,
            "tr_iteration_valid_full",
            self.tr_iteration_valid_full == 0
            or self.tr_iteration_valid_full >= max(self.tr_iteration_valid, 1),
            f"0, or at least --tr_iteration_valid ({self.tr_iteration_valid})",
        )
        _metric(self, "tr_best_metric")


@dataclass(frozen=True)
class PredictionConfig:
    """What predict.py reads and writes."""

    pr_input: str | None = None
    """Folder of DICOM files or zip archives, one zip archive, or a prepared dataset."""
    pr_output: str | None = None
    """Folder for the predictions."""
    pr_dataframe: str | None = None
    """sample_submission.csv: writes submission.csv with its ids in its order."""
    pr_submit: str | None = None
    """Competition that the submission is sent to, with the kaggle client and its credentials, such
    as rsna-intracranial-hemorrhage-detection (none: it is only written)."""

    def __post_init__(self) -> None:
        require(
            self,
            "pr_submit",
            self.pr_submit is None or is_competition(self.pr_submit),
            "the competition's name as in its address: small letters, digits and -",
        )
        if self.pr_submit is not None and self.pr_dataframe is None:
            raise InputError(
                f"--pr_submit {self.pr_submit} needs --pr_dataframe: the competition's "
                f"sample_submission.csv"
            )


@dataclass(frozen=True)
class ViewsConfig:
    """Test-time augmentation: other views of a slice, averaged with the plain one.

    Of predict.py, of evaluate.py on another dataset, and of the predictions that a training leaves.
    """

    pr_tta: int = 0
    """Extra passes with the test transform, averaged with the plain one."""
    pr_tta_views: str | None = None
    """Extra passes with deterministic views, such as flip_lr,rot90: flip_lr, flip_ud, rot90,
    rot180, rot270, transpose, transverse, swap (neighbours in reverse order), crop_tl, crop_tr,
    crop_bl, crop_br, crop_center; or the sets flip (flip_lr), d4 and crops."""
    pr_tta_mean: Literal["logits", "probabilities"] = "logits"
    """What is averaged over the views; given to --data_fold all, over the folds too."""

    def __post_init__(self) -> None:
        at_least(self, 0, "pr_tta")
        view_names(self.pr_tta_views)

    @property
    def names(self) -> tuple[str, ...]:
        """The views, the plain one first."""
        return view_names(self.pr_tta_views, self.pr_tta)


@dataclass(frozen=True)
class EnsembleConfig:
    """How experiments are blended; what is fitted is fitted on other folds than it is scored on."""

    ens_experiments: str | None = None
    """Members, separated by commas: ids of experiments with predictions/oof.parquet (or, of one
    fold, valid.parquet), such as 0003,0004, or paths of such tables (test.parquet beside them)."""
    ens_method: Literal["mean", "geometric", "rank", "power", "weights", "stacking"] = "mean"
    """mean of probabilities; geometric: of the odds; rank: of ranks, as a probability again; power:
    (mean of p^a)^(1/a); weights: the best ones per label; stacking: logistic regression per label
    on the members' logits."""
    ens_power: float = 0.5
    """power: the exponent a, not 0; 1 is the mean."""
    ens_space: Literal["probability", "logit"] = "probability"
    """weights: whether they add probabilities or logits."""
    ens_weight_sum_min: float = 1.0
    """weights: they are at least 0, and their sum lies between this and 1 (some systems: 0.98)."""
    ens_stack_c: float = 1.0
    """stacking: inverse strength of the ridge."""
    ens_consistency: Switch = 0
    """1: raise `any` to the largest subtype, after calibrating."""
    ens_calibration: Literal["none", "temperature", "isotonic"] = "none"
    """Calibration of the blend per label: temperature and bias, or a rising step function."""
    ens_studies: Switch = 1
    """1: probabilities of studies come from a calibrator per label on the largest probability of
    the slices, the mean of the top three and their number; 0: they are the largest."""
    stack_nested: Switch = 0
    """1: fit on predictions of members that saw neither the fold that is scored nor the fold that
    they predict; the trainings that are missing are listed. Experiments of all folds only."""

    def __post_init__(self) -> None:
        require(self, "ens_power", self.ens_power != 0, "other than 0")
        between(self, 0.5, 1, "ens_weight_sum_min")
        require(self, "ens_stack_c", self.ens_stack_c > 0, "greater than 0")

    @property
    def members(self) -> list[str]:
        """The members, in the order given; InputError where there are none, or one twice."""
        names = [name.strip() for name in (self.ens_experiments or "").split(",") if name.strip()]
        if not names:
            raise InputError("--ens_experiments is missing: say which, such as 0003,0004")
        if len(set(names)) < len(names):
            raise InputError(f"--ens_experiments {self.ens_experiments}: names a member twice")
        return names


@dataclass(frozen=True)
class PseudoLabelConfig:
    """Which slices of --pl_source get labels of --experiment_id, and join --data_dataset."""

    pl_name: str | None = None
    """Name of the new dataset."""
    pl_source: str | None = None
    """Dataset whose slices get labels (default: the test of --data_dataset)."""
    pl_predictions: str | None = None
    """Prediction table (default: predictions/test.parquet of the experiment; with --pl_source its
    evaluations/<source>/predictions.parquet)."""
    pl_labels: Literal["hard", "soft", "given"] = "hard"
    """hard: 0 and 1; soft: probabilities; given: no model, the labels that pl_source has."""
    pl_positive: list[float] = field(default_factory=lambda: [0.9])
    """Probability from which on a label is sure: one number, or one for each label, such as
    [0.5,0.9,0.9,0.9,0.9,0.9]."""
    pl_negative: list[float] = field(default_factory=lambda: [0.1])
    """Probability up to which its absence is sure, in the same form. Both 0.5: all are sure."""
    pl_partial: Switch = 0
    """1: slices of which some labels are sure come in too, the others unknown to the loss; 0: only
    those of which all are."""
    pl_use_studies: Switch = 0
    """1: where a study of pl_source is known not to have a label, its slices have not either."""

    def __post_init__(self) -> None:
        for name in ("pl_positive", "pl_negative"):
            values = getattr(self, name)
            inside = bool(values) and all(0 <= value <= 1 for value in values)
            require(self, name, inside, "numbers from 0 to 1")
        require(
            self,
            "pl_name",
            self.pl_name is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.pl_name),
            "letters, digits, _, . and - only: it names a folder",
        )


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
        require(self, "lrf_start_lr", self.lrf_start_lr > 0, "greater than 0")
        rises = self.lrf_end_lr > self.lrf_start_lr
        require(self, "lrf_end_lr", rises, f"greater than --lrf_start_lr {self.lrf_start_lr}")
        at_least(self, 3, "lrf_iteration_num")


@dataclass(frozen=True)
class SecondLevelConfig:
    """What second_level.py makes of the out-of-fold predictions of slice experiments."""

    sl_method: Literal["smooth", "boosting"] = "smooth"
    """smooth: a moving average along the series, its width chosen per label on the other folds;
    boosting: gradient-boosted trees (LightGBM) over the predictions of neighbouring slices."""
    sl_experiments: str = ""
    """Experiments below it, such as 0003 or 0003,0004: trained with --data_fold all on one
    dataset."""
    sl_smooth_kernel: Literal["gaussian", "uniform", "exponential"] = "gaussian"
    """Weights of the moving average by distance."""
    sl_smooth_unit: Literal["slices", "mm"] = "slices"
    """Unit of its widths: slices, or mm along the slice normal."""
    sl_smooth_space: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged."""
    sl_smooth_widths: list[float] = field(
        default_factory=lambda: [0.4, 0.55, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 3.0, 4.5]
    )
    """Widths to choose from: the standard deviation of gaussian, the reach to each side of uniform,
    the distance at which exponential has fallen to 1/e. None at all (0) is always among them."""
    sl_neighbors: int = 9
    """boosting: slices on each side whose predictions the trees see."""
    sl_rounds: int = 400
    """boosting: trees per label and fold, at most."""
    sl_patience: int = 30
    """boosting: rounds without improvement in a cross-validation within the training folds after
    which the number of trees is settled (0: always sl_rounds)."""
    sl_learning_rate: float = 0.03
    """boosting: learning rate of the trees."""
    sl_num_leaves: int = 15
    """boosting: leaves of a tree."""
    sl_min_leaf: int = 40
    """boosting: the fewest slices in a leaf."""

    def __post_init__(self) -> None:
        ids = self.experiment_ids
        valid = all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in ids)
        require(self, "sl_experiments", valid, "ids of experiments, such as 0003,0004")
        require(self, "sl_experiments", len(set(ids)) == len(ids), "different experiments")
        widths = self.sl_smooth_widths
        rule = "some widths, each greater than 0"
        require(self, "sl_smooth_widths", widths and min(widths) > 0, rule)
        at_least(self, 0, "sl_neighbors", "sl_patience")
        at_least(self, 1, "sl_rounds", "sl_min_leaf")
        at_least(self, 2, "sl_num_leaves")
        require(self, "sl_learning_rate", self.sl_learning_rate > 0, "greater than 0")

    @property
    def experiment_ids(self) -> list[str]:
        """The ids that sl_experiments names."""
        return self.sl_experiments.split(",") if self.sl_experiments else []


@dataclass(frozen=True)
class CallbackConfig:
    """What can be watched while training."""

    cb_metrics_enabled: Switch = 1
    """1: validations report precision, recall and F1 of each label, and means over the labels."""
    cb_metrics_threshold: float = 0.5
    """Probability from which a label counts as called, in precision, recall and F1."""
    cb_early_stopping_patience: int = 0
    """Validations of the whole fold without improvement after which training ends (0: never)."""
    cb_early_stopping_metric: str = "weighted_log_loss"
    """Metric that has to improve; see tr_best_metric."""
    cb_early_stopping_min_delta: float = 0.0
    """The least improvement that counts, in units of the metric."""
    cb_outputs_num: int = 0
    """How many validations of the whole fold keep their raw outputs, in outputs/ (the newest)."""
    cb_learning_rates_enabled: Switch = 0
    """1: record the learning rate of every parameter group."""
    cb_device_memory_enabled: Switch = 1
    """1: record the peaks of GPU memory so far; nothing on a CPU."""
    cb_telemetry_enabled: Switch = 0
    """1: record mean, spread and share of dead units of a module's activations."""
    cb_telemetry_module_name: str | None = None
    """Module whose activations are watched, by its name in the network."""
    cb_telemetry_log_every: int = 500
    """Iterations between two looks at the activations."""

    def __post_init__(self) -> None:
        between(self, 0, 1, "cb_metrics_threshold")
        at_least(self, 0, "cb_early_stopping_patience", "cb_early_stopping_min_delta")
        at_least(self, 0, "cb_outputs_num")
        at_least(self, 1, "cb_telemetry_log_every")
        _metric(self, "cb_early_stopping_metric")
        if self.cb_telemetry_enabled and not self.cb_telemetry_module_name:
            raise InputError(
                "--cb_telemetry_enabled 1 needs --cb_telemetry_module_name: say which module"
            )


@dataclass(frozen=True)
class MonitorConfig:
    """Where a run is shown, beside its own metrics.jsonl."""

    mlflow_enabled: Switch = 1
    """1: show the run in MLflow."""
    mlflow_uri: str | None = None
    """MLflow server or store (default: the SQLite file <output_dir>/mlflow.db)."""
    tensorboard_enabled: Switch = 0
    """1: write TensorBoard event files into the experiment folder."""
    nml_enabled: Switch = 0
    """1: show the run in Neptune: on the self-hosted server that made the token in
    NEPTUNE_API_TOKEN, else offline (the hosted service closed in March 2026)."""
    nml_project: str | None = None
    """Project on that server: workspace/name."""


GROUPS: dict[str, type] = {
    "general": GeneralConfig,
    "data": DataConfig,
    "preprocessing": PreprocessingConfig,
    "network": NetworkConfig,
    "optimizer": OptimizerConfig,
    "training": TrainingConfig,
    "prediction": PredictionConfig,
    "views": ViewsConfig,
    "ensemble": EnsembleConfig,
    "pseudo_labels": PseudoLabelConfig,
    "lr_finder": LRFinderConfig,
    "second_level": SecondLevelConfig,
    "callbacks": CallbackConfig,
    "monitor": MonitorConfig,
}

# A resumed run may change these; all others stay as they were recorded.
FREE_ON_RESUME = {
    "experiment_id",
    "tr_resume",
    "tr_max_hours",
    "n_jobs",
    "device",
    "data_transform_device",
    "output_dir",
    "data_input_folder",
}
FREE_ON_RESUME |= {field.name for field in fields(MonitorConfig)}
FREE_ON_RESUME |= {name for name in GeneralConfig.__dataclass_fields__ if name.startswith("dev_")}


@dataclass(frozen=True)
class Config:
    """The flags of one script run, by group."""

    general: GeneralConfig = field(default_factory=GeneralConfig)
    data: DataConfig = field(default_factory=DataConfig)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    pseudo_labels: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    lr_finder: LRFinderConfig = field(default_factory=LRFinderConfig)
    second_level: SecondLevelConfig = field(default_factory=SecondLevelConfig)
    callbacks: CallbackConfig = field(default_factory=CallbackConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    given: frozenset[str] = frozenset()

    @property
    def dataset_folder(self) -> Path:
        """The folder of the prepared dataset."""
        return self.named_dataset_folder(self.data.data_dataset)

    def named_dataset_folder(self, name: str) -> Path:
        """The folder of the prepared dataset called `name`."""
        return Path(self.data.data_input_folder) / "datasets" / name

    def experiment_folder(self, experiment_id: str) -> Path:
        """The folder of an experiment's results."""
        return Path(self.general.output_dir) / "results" / experiment_id

    def existing_experiment_folder(self) -> Path:
        """The folder named by --experiment_id; InputError where there is none."""
        if self.general.experiment_id is None:
            raise InputError("--experiment_id is missing: say which experiment, such as 0001")
        folder = self.experiment_folder(self.general.experiment_id)
        if not (folder / "config.yaml").is_file():
            raise InputError(
                f"--experiment_id {self.general.experiment_id}: no experiment at {folder}; "
                f"train one, or say where it is with --output_dir"
            )
        return folder

    @property
    def is_one_of_all_folds(self) -> bool:
        """Whether the experiment is a fold of one with --data_fold all."""
        return "/" in (self.general.experiment_id or "")

    @property
    def iteration_num(self) -> int:
        """Iterations to train, dev mode considered."""
        if self.general.dev_enabled:
            return min(self.training.tr_iteration_num, self.general.dev_iteration_num)
        return self.training.tr_iteration_num

    def dev_scaled(self, iteration: int) -> int:
        """An iteration of the whole training, as that of dev mode's shorter one if it is on."""
        return iteration * self.iteration_num // self.training.tr_iteration_num

    @property
    def base_lr(self) -> float:
        """The learning rate that the schedule begins or peaks at."""
        optim = self.optimizer
        if optim.optim_scheduler in ("constant", "multistep"):
            return optim.optim_lr
        return optim.optim_scheduler_max_lr

    def flags(self) -> dict[str, Any]:
        """All flags and their values in one flat dict of plain types."""
        return {
            name: value for group in GROUPS for name, value in asdict(getattr(self, group)).items()
        }

    def to_yaml(self) -> str:
        """The flags as YAML, in the form that --config reads."""
        return yaml.safe_dump(self.flags(), sort_keys=False)

    def with_flags(self, **changes: Any) -> "Config":
        """A copy in which the named flags have other values."""
        groups = {}
        for group, kind in GROUPS.items():
            names = {item.name for item in fields(kind)} & changes.keys()
            if names:
                own = {name: changes[name] for name in names}
                groups[group] = replace(getattr(self, group), **own)
        return replace(self, **groups)


def parse_config(
    description: str, groups: Sequence[str], argv: Sequence[str] | None = None
) -> Config:
    """Reads the flags of a script.

    Args:
        description: what the script does, for --help.
        groups: names of the flag groups that the script knows.
        argv: arguments without the program's name; default: those of the process.

    Raises:
        InputError: an unknown flag, or a value that breaks its rule.
    """
    own = [GROUPS[group] for group in groups]
    # One file serves all scripts: the flags of other scripts in it are passed over.
    others = Config().flags().keys() - {item.name for kind in own for item in fields(kind)}
    values, given = parse_flags(description, own, argv, others)
    config = _build_config(values, groups, given)
    refuse_unusable(config)
    warn_about_flags(config, groups)
    return config


def recorded_config(folder: Path) -> Config:
    """The configuration that an experiment folder recorded in its config.yaml."""
    path = folder / "config.yaml"
    try:
        flags = yaml.safe_load(path.read_text(encoding="utf-8"))
        known = Config().flags()
        unknown = sorted(set(flags) - set(known))
        if unknown:
            raise InputError(f"{path}: unknown flags {', '.join(unknown)}: made by another version")
        return _build_config({**known, **flags}, list(GROUPS), frozenset())
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise InputError(f"{path} can't be read as flags ({error}): restore it") from error


def resumed_config(config: Config) -> Config:
    """The recorded configuration of the experiment that `config` asks to go on with.

    Raises:
        InputError: a flag is given with another value than the recorded one.
    """
    folder = config.existing_experiment_folder()
    recorded = recorded_config(folder)
    before, now = recorded.flags(), config.flags()
    for name in sorted(config.given - FREE_ON_RESUME):
        if before[name] != now[name]:
            raise InputError(
                f"--{name} {now[name]}: experiment {config.general.experiment_id} was started "
                f"with {before[name]}; leave the flag out, or start a new experiment"
            )
    free = {name: now[name] for name in config.given & FREE_ON_RESUME}
    free |= {"experiment_id": now["experiment_id"], "output_dir": now["output_dir"], "tr_resume": 1}
    return replace(recorded.with_flags(**free), given=config.given)


def _build_config(values: dict[str, Any], groups: Sequence[str], given: frozenset[str]) -> Config:
    parts: dict[str, Any] = {}
    for group in groups:
        kind = GROUPS[group]
        parts[group] = kind(
            **{item.name: values[item.name] for item in fields(kind) if item.name in values}
        )
    return Config(**parts, given=given)


def _known(group: Any, name: str, known: Sequence[str]) -> None:
    require(group, name, getattr(group, name) in known, f"one of {', '.join(known)}")


def _metric(group: Any, name: str) -> None:
    try:
        direction_of(getattr(group, name))
    except InputError as error:
        raise InputError(f"--{name}: {error}") from error
