"""Blood and mimics of the levels dataset differ in their order along z, and in nothing else."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.levels import levels
from benchmarks.levels.arrangement import LAYOUTS, Finding, draw_finding, draw_findings
from benchmarks.levels.levels_dataset import LevelsParameters, write_levels_dataset
from common.errors import InputError
from common.slices.table import SliceTable
from rsna_task import LABELS, SUBTYPES


def pieces_of(slices: np.ndarray) -> list[np.ndarray]:
    return np.split(slices, np.flatnonzero(np.diff(slices) > 1) + 1)


@pytest.mark.parametrize("kind", SUBTYPES)
def test_blood_is_one_piece_and_a_mimic_several(kind: str) -> None:
    layout, rng = LAYOUTS[kind], np.random.default_rng(0)
    counts: dict[bool, list[int]] = {True: [], False: []}
    for _ in range(500):
        finding = draw_finding(kind, rng)
        pieces = pieces_of(finding.slices)
        lengths = [len(piece) for piece in pieces]
        assert (len(pieces) == 1) == finding.is_blood
        assert layout.first <= finding.slices.min() and finding.slices.max() <= layout.last
        assert layout.counts[0] <= sum(lengths) <= layout.counts[1]
        if not finding.is_blood:
            assert layout.pieces[0] <= min(lengths) and max(lengths) <= layout.pieces[1]
            gaps = [b[0] - a[-1] - 1 for a, b in itertools.pairwise(pieces)]
            assert min(gaps) >= layout.gap
        counts[finding.is_blood].append(sum(lengths))
    shares = [np.bincount(counts[kind], minlength=11) / len(counts[kind]) for kind in counts]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.1)


def test_height_tells_little() -> None:
    """How often a slice is affected is much the same for both, so that no height means blood."""
    rng = np.random.default_rng(1)
    for kind in SUBTYPES:
        heights = {True: np.zeros(levels.NUM_SLICES), False: np.zeros(levels.NUM_SLICES)}
        for _ in range(400):
            finding = draw_finding(kind, rng)
            heights[finding.is_blood][finding.slices] += 1
        shares = [own / own.sum() for own in heights.values()]
        assert np.abs(shares[0] - shares[1]).sum() / 2 < 0.2, kind


def test_findings_of_a_study_are_of_different_kinds() -> None:
    for seed in range(20):
        kinds = [finding.kind for finding in draw_findings(np.random.default_rng(seed))]
        assert len(set(kinds)) == len(kinds) == 3


def test_pixels_do_not_know_what_is_blood(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same slices, called blood or mimic, are painted alike, to the bit."""
    slices = {kind: np.array([8, 9, 12]) for kind in SUBTYPES}
    studies = []
    monkeypatch.setattr(levels, "EVIDENT_SHARE", 0.0)
    for is_blood in (False, True):
        findings = [Finding(kind, is_blood, own) for kind, own in slices.items()]
        monkeypatch.setattr(levels, "draw_findings", lambda rng, found=findings: found)
        studies.append(levels.generate_levels_study(3, 4667))
    mimics, blood = studies
    np.testing.assert_array_equal(mimics.image_hu, blood.image_hu)
    assert not mimics.labels.any() and blood.labels[[8, 9, 12]].all()
    assert blood.labels.sum() == 3 * len(SUBTYPES)


def test_findings_are_seen_where_they_are_and_calcium_is_brighter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the same head without findings; HU as the module says."""
    for kind in SUBTYPES:
        means = {}
        for share, slices in ((0.0, []), (0.0, [9]), (1.0, [9])):
            monkeypatch.setattr(levels, "EVIDENT_SHARE", share)
            found = [Finding(kind, False, np.array(slices, int))]
            monkeypatch.setattr(levels, "draw_findings", lambda rng, found=found: found)
            monkeypatch.setattr(levels, "NOISE_HU", 0.0)
            means[share, len(slices)] = levels.generate_levels_study(5, 4667).image_hu[9]
        change = means[0.0, 1].astype(float) - means[0.0, 0]
        brain = (means[0.0, 0] > 0) & (means[0.0, 0] < 60)
        seen = brain & (change > 12)
        assert 8 <= seen.sum() <= 200, (kind, seen.sum())
        assert 50 < np.percentile(means[0.0, 1][seen], 90) < 82, kind
        assert np.percentile(means[1.0, 1][seen], 90) > 100, kind


def test_a_dataset_that_the_project_reads(tmp_path: Path) -> None:
    folder, parameters = tmp_path / "levels", LevelsParameters(num_patients=4, num_folds=2)
    write_levels_dataset(folder, parameters)
    table = SliceTable.load(folder)
    assert len(table) == 4 * levels.NUM_SLICES and table.readable.all()
    study = levels.generate_levels_study(2, parameters.seed)
    rows = np.arange(2 * levels.NUM_SLICES, 3 * levels.NUM_SLICES)
    np.testing.assert_array_equal(table.image_hu(int(rows[7])), study.image_hu[7])
    np.testing.assert_array_equal(table.labels(rows, SUBTYPES), study.labels)
    np.testing.assert_array_equal(
        table.labels(rows, LABELS)[:, -1], study.labels.any(axis=1).astype(np.float32)
    )
    folds = pd.read_csv(folder / "folds.csv")
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()
    before = (folder / "slices.parquet").stat().st_mtime_ns
    write_levels_dataset(folder, parameters)
    assert (folder / "slices.parquet").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="other parameters"):
        write_levels_dataset(folder, LevelsParameters(num_patients=5, num_folds=2))
