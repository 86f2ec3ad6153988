"""Facts about a worker of a cluster; sent there as code, since the worker may lack this package."""

from typing import Any


def look(
    packages: list[str], libraries: tuple[str, ...], source_folder: str, token: str | None
) -> dict[str, Any]:
    """Return the packages, libraries and folders of this process; import nothing of the project.

    Args:
        packages: top-level packages, of whose code a digest is returned; None for a missing one.
        libraries: distributions whose versions are returned; None for a missing one.
        token: a file that the dataset folder holds at the moment, or None not to look.
    """
    import hashlib
    import importlib.metadata
    import importlib.util
    import os
    import platform
    from pathlib import Path

    code: dict[str, str | None] = {}
    for name in packages:
        spec = importlib.util.find_spec(name)
        code[name] = None
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            files = (
                sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
            )
            digest = hashlib.sha256()
            for file in files:
                digest.update(str(file.relative_to(origin.parent)).encode() + file.read_bytes())
            code[name] = digest.hexdigest()
    versions: dict[str, str | None] = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for library in libraries:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return {
        "host": platform.node(),
        "code": code,
        "versions": versions,
        "source": os.path.isdir(source_folder),
        "dataset": token is None
        or (os.path.isfile(token) and os.access(os.path.dirname(token), os.W_OK)),
    }
