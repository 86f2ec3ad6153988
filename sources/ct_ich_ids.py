"""How CT-ICH's scans and slices are named, the same in both of its layouts."""

import hashlib


def image_id(patient: str, number: int) -> str:
    """Returns the id of a slice: a hash, as image ids are shown where patient ids must not be."""
    digest = hashlib.blake2b(f"{patient}/{number}".encode(), digest_size=6).hexdigest()
    return f"CT-ICH_{digest}"


def scan_ids(patient: str) -> dict[str, str]:
    """Returns patient_id, study_id and series_id: a patient has one scan."""
    study = f"CT-ICH_{patient}"
    return {"patient_id": patient, "study_id": study, "series_id": study}
