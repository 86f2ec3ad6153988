import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from large_dataset import make_large_dataset
from tiny_dataset import make_tiny_dataset

from common.report.dataset import DatasetReport
from common.report.exploration.dataset import ExploredDataset
from common.slices.store import SliceStore
from common.slices.table import SLICES_FILE
from rsna_task import LABELS


def html_of(folder: Path) -> str:
    return DatasetReport(ExploredDataset.load(folder, LABELS, overall="any")).html()


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    return make_large_dataset(tmp_path_factory.mktemp("large"), num_rows=3000, num_shown=89)


@pytest.fixture(scope="module")
def slices_read() -> list[tuple[str, int]]:
    """The slices read for the page."""
    return []


@pytest.fixture(scope="module")
def page(large, slices_read) -> str:
    plain = SliceStore.read

    def read(self, store_file, store_index):
        slices_read.append((store_file, store_index))
        return plain(self, store_file, store_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SliceStore, "read", read)
        return html_of(large)


@pytest.mark.drawn
def test_the_page_needs_nothing_but_itself(page):
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert len(sources) > 15
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|<script|@import|url\(", page)


@pytest.mark.drawn
def test_the_page_tells_counts_reasons_and_shares(page, large):
    frame = pd.read_parquet(large / SLICES_FILE)
    assert "not a medical device" in page
    assert f"{int((frame['status'] == 'truncated').sum())}" in page
    assert "of 524288 bytes of pixel data" in page or "# of # bytes" in page
    assert "wrapped values were unwrapped" in page
    assert f"{100 * frame['subdural'].mean():.2f} %" in page
    assert "12 bits, unsigned, slope 1, intercept -1024" in page
    for heading in ("Labels together", "Folds", "Geometry", "Slices of each label"):
        assert f"<h2>{heading}</h2>" in page


@pytest.mark.drawn
def test_the_page_tells_of_no_patient_and_no_file(page):
    assert "secret" not in page
    assert ".dcm" not in page
    assert ".b2nd" not in page
    assert re.search(r"<code>ID_\d+</code>", page)


@pytest.mark.drawn
def test_only_what_is_shown_is_read(page, slices_read):
    assert len(slices_read) == page.count('class="card"') + 34


def test_a_dataset_of_one_series_without_labels_folds_and_studies_has_a_page(tmp_path):
    folder = make_tiny_dataset(tmp_path, num_patients=1)
    frame = pd.read_parquet(folder / SLICES_FILE).assign(**dict.fromkeys(LABELS, np.nan))
    frame.drop(columns="epidural").to_parquet(folder / SLICES_FILE)
    (folder / "folds.csv").unlink()
    page = html_of(folder)
    assert page.count("Nothing is labelled.") == 2
    assert "There are no folds." in page
    assert 'class="card"' in page


def test_a_dataset_whose_studies_are_labelled_has_a_page(tmp_path):
    folder = make_tiny_dataset(tmp_path, num_patients=3)
    frame = pd.read_parquet(folder / SLICES_FILE)
    frame.assign(**dict.fromkeys(LABELS, np.float32("nan"))).to_parquet(folder / SLICES_FILE)
    studies = frame.groupby("study_id")[list(LABELS)].max().reset_index()
    studies.assign(patient_id="p", label_source="study").to_parquet(folder / "studies.parquet")
    page = html_of(folder)
    assert "Only studies are labelled" in page
    assert "label of the study" in page


def test_a_dataset_without_pixels_has_a_page(tmp_path):
    folder = make_tiny_dataset(tmp_path, num_patients=2)
    frame = pd.read_parquet(folder / SLICES_FILE)
    frame = frame.assign(status="corrupt", store_file=None, store_index=None)
    frame.astype({"store_index": "Int32"}).to_parquet(folder / SLICES_FILE)
    page = html_of(folder)
    assert "No slice has pixels." in page
    assert "No slice can be read." in page


@pytest.mark.long
def test_the_whole_challenge_has_a_page(tmp_path):
    folder = make_large_dataset(tmp_path, num_rows=752_803)
    page = html_of(folder)
    assert "752,803 rows" in page
    assert "secret" not in page
    assert len(page) < 5_000_000
