"""The training of a 3D network over resampled series."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from common.checkpoint import load_weights
from common.errors import InputError
from common.models.volume import VolumeModel
from common.pixel_steps import NO_STEPS, PixelSteps
from common.series_predictor import SeriesPredictor, VolumePredictor
from rsna_dataset import image_shape
from rsna_series_training import RSNASeriesTraining


class RSNAVolumeTraining(RSNASeriesTraining):
    """A training of `volume-<name>`, from random weights or those of --net_weight_file."""

    predictor_class: ClassVar[type[SeriesPredictor]] = VolumePredictor

    def _create_model(self) -> VolumeModel:  # type: ignore[override]
        # The memory format is one of images, not of volumes.
        self.settings = replace(self.settings, channels_last=False)
        flags = self.config.network
        model = VolumeModel(
            flags.net_model,
            len(self.task.label_names),
            in_chans=image_shape(self.config)[0],
            width=flags.net_volume_width,
            spacing_mm=flags.net_volume_mm,
            drop_rate=flags.net_drop_rate,
        )
        if flags.net_weight_file is not None and not self.is_resumed:
            load_weights(model, Path(flags.net_weight_file))
        return model

    def _slice_offsets(self) -> tuple[int, ...]:
        """The slice alone: the network sees its neighbours anyway."""
        if self.config.data.data_neighbors:
            raise InputError("--data_neighbors: a 3D network sees whole series: leave it out")
        return (0,)

    def _pixel_steps(self) -> PixelSteps:
        """A grid in mm, as large as --data_img_size, where --data_volume_spacing names one."""
        flags = self.config.data
        if not flags.data_volume_spacing:
            return NO_STEPS
        return PixelSteps(spacing_mm=flags.data_volume_spacing, size=flags.data_img_size)
