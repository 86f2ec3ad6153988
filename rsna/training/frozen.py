"""Parts of the training of a head over the features of a frozen encoder (--net_encoder).

The encoder is a slice predictor that says nothing; a linear head or a sequence network sees its
features as those of a slice experiment. So the predictor is a study predictor like any other.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.distributed import connected
from common.errors import InputError
from common.features.slice_outputs import SliceOutputs, outputs_of_encoder
from common.features.store import FEATURES_FOLDER, FeatureTable
from common.models import SequenceModel
from common.models.base import start_bias
from common.networks import FitSettings
from common.predictors.base import AbstractPredictor, PredictOptions
from common.predictors.sharing import share_rows, together
from common.predictors.stored import EncoderPredictor
from common.scoring.metrics import training_prior
from common.scoring.predictions import Mean
from common.transforms.views import PLAIN
from config import Config
from rsna.data import find_transforms, image_shape, neighbour_offsets
from rsna.training.parts import load_start, record_of_start
from rsna.training.sequence import SequenceParts
from rsna_model import RSNAModel

logger = logging.getLogger(__name__)


class FrozenParts(SequenceParts):
    """The parts of a training of `study-<network>` on the features of --net_encoder.

    They are extracted in the view of validation, once for a dataset and encoder, and kept in
    `<output_dir>/features/`. --net_weight_file gives the encoder's weights.
    """

    encoder: EncoderPredictor
    features: FeatureTable

    def __init__(self, config: Config, settings: FitSettings) -> None:
        super().__init__(config, settings)
        if not self.is_resumed:
            start_bias(self.model.skip, self.data.prior.tolist())

    def _create_model(self) -> SequenceModel:
        if len(self.config.views.names) > 1:
            raise InputError(
                "--pr_tta, --pr_tta_views: the features of --net_encoder are of the plain view: "
                "give views to predict.py"
            )
        self.encoder = self._make_encoder()
        return self._build_model([self.encoder.network.feature_dim], 1)

    def _make_encoder(self) -> EncoderPredictor:
        config, flags, names = self.config, self.config.network, self.task.label_names
        num_channels, *image_size = image_shape(config)
        try:
            model = RSNAModel(
                self._encoder_name,
                len(names),
                in_chans=num_channels,
                image_size=image_size,
                pretrained=bool(flags.net_pretrained) and flags.net_weight_file is None,
                pooling=flags.net_pooling,
            )
        except InputError as error:
            # Here another flag names the network that the message is about.
            raise InputError(str(error).replace("--net_model", "--net_encoder")) from error
        if flags.net_weight_file is not None:
            load_start(model, Path(flags.net_weight_file))
        _, plain, tta = find_transforms(config, model.mean, model.std)
        model.require_image_size(plain.output_size, "data_valid_transform")
        offsets, offsets_mm = neighbour_offsets(config.data)
        return EncoderPredictor(
            network=model,
            model=model.specification,
            label_names=names,
            label_weights=self.task.label_weights,
            transform=plain,
            tta_transform=tta,
            prior=training_prior(self.table.labels(self.rows[0], names)),
            slice_offsets=offsets,
            offsets_mm=offsets_mm,
            past_end=config.data.data_neighbor_end,
        )

    @property
    def _encoder_name(self) -> str:
        return str(self.config.network.net_encoder)

    def _load_outputs(self) -> list[SliceOutputs]:
        config, table, fold = self.config, self.table, self.config.data.data_fold
        assert isinstance(fold, int)
        rows = np.flatnonzero(table.readable)
        if config.general.dev_enabled:
            rows = np.unique(np.concatenate(table.groups_of(np.concatenate(self.rows))))
            rows = rows[table.readable[rows]]
        size, num_jobs = config.general.tr_batch_size_valid, config.general.n_jobs
        options = PredictOptions(size, num_jobs, device=self.settings.device)
        folder = Path(config.general.output_dir) / FEATURES_FOLDER
        processes, encoder = self.settings.processes, self.encoder
        with connected(processes, torch.device("cpu"), timedelta(days=7)):
            shared = replace(options, share=share_rows if processes.are_many else None)
            features = together(
                processes,
                lambda: encoder.store_features(table, rows, folder, shared),
                lambda: encoder,
                table,
            )
        if features is None:  # the main process has stored them
            features = encoder.store_features(table, rows, folder, options)
        self.features = features
        num_labels = len(self.task.label_names)
        return [outputs_of_encoder(features, table, rows, self.rows[0], fold, num_labels)]

    def seen_values(self) -> np.ndarray:
        digest = bytes.fromhex(self.features.manifest["weights_sha256"])
        return np.append(self.data.train.labels, np.frombuffer(digest, np.uint8))

    def weights_record(self) -> dict[str, Any] | None:
        return record_of_start(self.config.network, self._encoder_name, self.encoder.network)

    def _log_transforms(self) -> None:
        dim, name = self.encoder.network.feature_dim, self.encoder.network.specification["name"]
        what = "%d features of the frozen encoder %s; %s"
        logger.info(what, dim, name, self.data.train.augmentation)

    def predictor(self, training: dict[str, Any]) -> AbstractPredictor:
        self.encoder.training = training
        return super().predictor(training)

    def _slice_predictors(self, fold: int) -> list[AbstractPredictor]:
        return [self.encoder]

    def _kept_outputs(self, fold: int) -> list[SliceOutputs | None]:
        return list(self.outputs)

    def _slice_views(self) -> list[tuple[Sequence[str], Mean]]:
        return [((PLAIN,), "logits")]
