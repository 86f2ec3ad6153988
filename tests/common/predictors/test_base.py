import json

import numpy as np
import pytest
import torch
from predictor_factory import (
    build_network,
    make_dataset,
    make_predictor,
    rotating_transform,
    small_transform,
)
from small_disk import files_up_to

from common.errors import InputError
from common.predictors.base import PredictOptions
from common.predictors.loading import load_predictor
from common.scoring.predictions import Calibration, probabilities_of
from common.slices.table import STORE_FOLDER, SliceTable


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> SliceTable:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def all_rows(table) -> np.ndarray:
    return np.arange(len(table))


def test_a_saved_predictor_predicts_the_same(tmp_path, table, all_rows):
    predictor = make_predictor(calibration=Calibration((1.5,) * 6, (0.1,) * 6), threshold=0.3)
    predictor.save(tmp_path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.pt", "predictor.json"]
    loaded = load_predictor(tmp_path, build_network)
    before = predictor.predict_rows(table, all_rows, PredictOptions(views=("plain", "random_1")))
    after = loaded.predict_rows(table, all_rows, PredictOptions(views=("plain", "random_1")))
    np.testing.assert_array_equal(after.logits, before.logits)
    assert loaded.calibration == predictor.calibration
    assert loaded.threshold == 0.3
    np.testing.assert_array_equal(loaded.prior, predictor.prior)
    assert loaded.training == predictor.training


@pytest.mark.parametrize(
    "change",
    [
        {"prior": None}, {"label_names": 3}, {"label_weights": []}, {"model": []}, {"kind": []},
        {"calibration": {}}, {"study_calibration": "x"}, {"transform": 3}, {"slice_offsets": None},
    ],
)  # fmt: skip
def test_content_of_another_type_is_refused_in_one_line(tmp_path, change):
    make_predictor().save(tmp_path)
    path = tmp_path / "predictor.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match=r"predictor\.json"):
        load_predictor(tmp_path, build_network)
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in change}))
    if set(change) & {"kind", "study_calibration"}:  # which earlier versions lack
        load_predictor(tmp_path, build_network)
    else:
        with pytest.raises(InputError, match=r"predictor\.json"):
            load_predictor(tmp_path, build_network)


def test_logits_are_those_of_the_network_on_each_transformed_slice(table):
    predictor = make_predictor()
    rows = np.array([7, 0, 3])
    result = predictor.predict_rows(table, rows, PredictOptions(batch_size=2))
    with torch.inference_mode():
        for row, logits in zip(rows, result.logits, strict=True):
            image = torch.from_numpy(small_transform()(table.image_hu(row), 0))
            expected = predictor.network(image[None])[0].numpy()
            np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert not result.unreadable.any()


def test_batch_size_workers_and_order_change_nothing_with_random_views(table, all_rows):
    predictor = make_predictor()
    expected = predictor.predict_rows(
        table, all_rows, PredictOptions(views=("plain", "random_1", "random_2"), seed=3)
    ).logits
    other = predictor.predict_rows(
        table,
        all_rows[::-1],
        PredictOptions(
            views=("plain", "random_1", "random_2"), seed=3, batch_size=5, num_workers=2
        ),
    )
    np.testing.assert_allclose(other.logits[::-1], expected, rtol=1e-5, atol=1e-6)
    assert (
        np.abs(
            predictor.predict_rows(
                table, all_rows, PredictOptions(views=("plain", "random_1", "random_2"))
            ).logits
            - expected
        ).max()
        > 0
    )


def test_views_are_averaged(table):
    rows = np.array([0, 1])
    plain = make_predictor().predict_rows(table, rows).logits
    same = make_predictor(tta_transform=small_transform())
    np.testing.assert_allclose(
        same.predict_rows(
            table, rows, PredictOptions(views=("plain", "random_1", "random_2", "random_3"))
        ).logits,
        plain,
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize("calibration", [None, Calibration((2.0,) * 6, (-0.5,) * 6)])
def test_unreadable_rows_get_the_prior(table, all_rows, calibration):
    predictor = make_predictor(calibration=calibration)
    result = predictor.predict_rows(table, all_rows)
    np.testing.assert_array_equal(result.unreadable, ~table.readable)
    assert result.unreadable.sum() == 1
    np.testing.assert_allclose(
        probabilities_of(result.logits[result.unreadable], calibration)[0],
        predictor.prior,
        rtol=1e-5,
    )
    only = predictor.predict_rows(table, np.flatnonzero(~table.readable))
    assert only.unreadable.all()


def test_a_damaged_store_costs_only_its_own_slices(tmp_path):
    table = make_dataset(tmp_path)
    expected = make_predictor().predict_rows(table, np.arange(len(table)))
    (tmp_path / STORE_FOLDER / "p2r0.b2nd").write_bytes(b"damaged")
    table = SliceTable.load(tmp_path)
    damaged = (table.frame["store_file"] == "p2r0.b2nd").to_numpy()
    result = make_predictor().predict_rows(
        table, np.arange(len(table)), PredictOptions(views=("plain", "random_1"))
    )
    np.testing.assert_array_equal(result.unreadable, damaged | ~table.readable)
    plain = make_predictor().predict_rows(table, np.arange(len(table)))
    np.testing.assert_array_equal(plain.logits[~damaged], expected.logits[~damaged])


def test_a_random_transform_is_refused():
    with pytest.raises(InputError, match="Rotate"):
        make_predictor(transform=rotating_transform())


def test_views_without_a_transform_for_them_are_refused(table):
    with pytest.raises(InputError, match="no test-time transform"):
        make_predictor(tta_transform=None).predict_rows(
            table, [0], PredictOptions(views=("plain", "random_1"))
        )


def test_weights_that_are_not_finite_are_refused(table):
    predictor = make_predictor()
    torch.nn.init.constant_(predictor.network[-1].bias, float("nan"))
    with pytest.raises(InputError, match="not finite"):
        predictor.predict_rows(table, [0])


def test_unusable_folders_are_the_users_to_put_right(tmp_path):
    with pytest.raises(InputError, match="no predictor at"):
        load_predictor(tmp_path, build_network)
    make_predictor().save(tmp_path)
    json_file, weights = tmp_path / "predictor.json", tmp_path / "model.pt"
    content = json.loads(json_file.read_text())

    json_file.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        load_predictor(tmp_path, build_network)
    json_file.write_text(json.dumps({**content, "kind": "oracle"}))
    with pytest.raises(InputError, match="kind 'oracle'"):
        load_predictor(tmp_path, build_network)
    del content["kind"]  # As folders of the first version were written.
    json_file.write_text(json.dumps(content))
    assert load_predictor(tmp_path, build_network).kind == "slices"
    json_file.write_text("{")
    with pytest.raises(InputError, match="can't be read as JSON"):
        load_predictor(tmp_path, build_network)

    wide = {**content, "model": {**content["model"], "in_chans": 9}}
    json_file.write_text(json.dumps(wide))
    with pytest.raises(InputError, match="size mismatch"):
        load_predictor(tmp_path, build_network)

    json_file.write_text(json.dumps(content))
    torch.save({}, weights)
    with pytest.raises(InputError, match="not the file"):
        load_predictor(tmp_path, build_network)
    weights.unlink()
    with pytest.raises(InputError, match="missing"):
        load_predictor(tmp_path, build_network)


class Featured(torch.nn.Module):
    """The network of the factory in two parts."""

    def __init__(self) -> None:
        super().__init__()
        whole = build_network({"in_chans": 3, "num_classes": 6, "seed": 5})
        self.body, self.head = whole[:-1], whole[-1]

    def forward_features(self, images):
        return self.body(images)

    def forward_head(self, features):
        return self.head(features)

    def forward(self, images):
        return self.forward_head(self.forward_features(images))


def test_features_are_what_the_last_layer_sees(table, all_rows):
    predictor = make_predictor(network=Featured())
    plain = predictor.predict_rows(table, all_rows)
    assert plain.features is None
    result = predictor.predict_rows(table, all_rows, PredictOptions(with_features=True))
    np.testing.assert_array_equal(result.logits, plain.logits)
    assert (result.features.dtype, result.features.shape) == (np.float32, (len(table), 4))
    readable = ~result.unreadable
    with torch.inference_mode():
        logits = predictor.network.head(torch.from_numpy(result.features))
    np.testing.assert_allclose(logits[readable], result.logits[readable], atol=1e-5)
    assert (result.features[~readable] == 0).all()


def test_features_of_several_views_are_their_mean(table):
    rows = np.array([2, 0, 9])
    predictor = make_predictor(network=Featured())
    single = [
        predictor.predict_rows(table, rows, PredictOptions(views=(view,), with_features=True))
        for view in ("plain", "flip_ud")
    ]
    both = predictor.predict_rows(
        table, rows, PredictOptions(views=("plain", "flip_ud"), with_features=True)
    )
    assert np.abs(single[0].features - single[1].features).max() > 1e-4
    mean = (single[0].features.astype(float) + single[1].features) / 2
    np.testing.assert_allclose(both.features, mean, atol=1e-3)
    mean = (single[0].logits.astype(float) + single[1].logits) / 2
    np.testing.assert_allclose(both.logits, mean, atol=1e-6)


def nine_channels(**options):
    model = {"name": "tiny", "num_classes": 6, "in_chans": 9}
    network = build_network({**model, "seed": 5}).eval()
    return make_predictor(network=network, model=model, slice_offsets=(-1, 0, 1), **options)


def test_neighbours_are_predicted_as_they_were_trained(tmp_path, table):
    predictor = nine_channels(offsets_mm=(-10.0, 0.0, 10.0))
    predictor.save(tmp_path)
    content = json.loads((tmp_path / "predictor.json").read_text())
    assert content["slice_offsets"] == [-1, 0, 1] and content["offsets_mm"] == [-10.0, 0.0, 10.0]
    loaded = load_predictor(tmp_path, build_network)
    assert tuple(loaded.offsets_mm) == (-10.0, 0.0, 10.0)
    rows = table.rows_of(["ID_p2r0_3"])
    near = table.rows_of(["ID_p2r0_1", "ID_p2r0_3", "ID_p2r0_5"])
    slices = np.stack([table.image_hu(int(row)) for row in near], axis=2)
    with torch.inference_mode():
        image = torch.from_numpy(small_transform()(slices, 0))
        expected = predictor.network(image[None]).numpy()
    np.testing.assert_allclose(loaded.predict_rows(table, rows).logits, expected, atol=1e-6)


def test_a_folder_of_before_there_were_distances_still_loads(tmp_path, table, all_rows):
    predictor = nine_channels()
    predictor.save(tmp_path)
    path = tmp_path / "predictor.json"
    content = json.loads(path.read_text())
    del content["offsets_mm"]
    path.write_text(json.dumps(content))
    loaded = load_predictor(tmp_path, build_network)
    expected = predictor.predict_rows(table, all_rows).logits
    np.testing.assert_array_equal(loaded.predict_rows(table, all_rows).logits, expected)


def test_a_damaged_neighbour_costs_no_prediction(tmp_path):
    table = make_dataset(tmp_path)
    frame = table.frame.copy()
    row = int(table.rows_of(["ID_p2r0_2"])[0])
    frame.loc[row, "store_index"] = 99  # not in the file
    result = nine_channels().predict_rows(SliceTable(frame, tmp_path), np.arange(len(frame)))
    expected = ~table.readable
    expected[row] = True
    np.testing.assert_array_equal(result.unreadable, expected)


def test_a_full_disk_is_an_error_of_the_system_and_leaves_no_torn_file(tmp_path):
    """torch's own writer raises a RuntimeError, which would be called a fault of the program."""
    with files_up_to(2000), pytest.raises(OSError, match="too large"):
        make_predictor().save(tmp_path)
    assert not list(tmp_path.iterdir())
