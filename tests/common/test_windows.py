"""Windows and the HU of air are defined once, and shown as DICOM says."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common import windows

DEFINED = {*windows.READING_WINDOWS.values(), tuple(w.width for w in windows.NETWORK_WINDOWS)}


def definitions(path: Path) -> list[str]:
    """The places of a module where a window, or the HU of air, is written as numbers."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
            if _number(node.value) is not None and any(name.endswith("AIR_HU") for name in names):
                found.append(f"{path}:{node.lineno}")
        if isinstance(node, ast.Tuple | ast.List):
            numbers = tuple(map(_number, node.elts))
            if numbers in DEFINED or numbers[-2:] in DEFINED:
                found.append(f"{path}:{node.lineno}")
    return found


def _number(node: ast.expr) -> float | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) else None


def test_no_other_module_defines_them(project_root: Path) -> None:
    paths = [*project_root.glob("*.py")]
    for name in ("common", "flags", "rsna", "scripts", "transforms", "benchmarks"):
        paths += (project_root / name).rglob("*.py")
    own = project_root / "common" / "windows.py"
    assert own in paths
    assert [place for path in paths if path != own for place in definitions(path)] == []


@pytest.mark.parametrize(
    "text", ["AIR_HU = -1024", "X = {'brain': (40.0, 80.0)}", "WIDTHS = (80, 200, 380)"]
)
def test_a_second_definition_would_be_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(text)
    assert definitions(tmp_path / "module.py")


def test_they_come_without_heavy_libraries(project_root: Path) -> None:
    code = "import sys, common.windows; print({'torch', 'albumentations', 'cv2'} & {*sys.modules})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_window_maps_its_ends_to_black_and_white() -> None:
    image_hu = np.array([-1024, 0, 20, 40, 80, 3071], np.int16)
    shown = windows.windowed(image_hu, *windows.BRAIN)
    assert shown.dtype == np.uint8
    assert shown.tolist() == [0, 0, 64, 128, 255, 255]
