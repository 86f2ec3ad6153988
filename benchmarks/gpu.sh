#!/usr/bin/env bash
# Measures on a GPU in under eight minutes, without a network and without data (toys on a CPU).
#
#   benchmarks/gpu.sh                    all parts, then a table and one line of JSON
#   benchmarks/gpu.sh train compiled     these parts (benchmarks/gpu.py lists them)
#   benchmarks/gpu.sh download 3.12      where there is a network: wheels for a machine without one
#
# It runs with .venv, else with the Python that PYTHON names. A machine that has torch, timm, OpenCV,
# pandas, pyarrow and scipy needs but the packages below: download them for its version of Python
# (others by name behind it), take the repository there with output/wheels (16 MB) and start this
# script. They are put into output/gpu/site; the Python there stays as it is. This is no venv, since
# one made from a venv does not see the packages of that one, torch among them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
[[ -x $python ]] || python=${PYTHON:-python3}
wheels=output/wheels
site=output/gpu/site
packages=(albumentations albucore simsimd stringzilla blosc2 ndindex msgpack numexpr threadpoolctl
    pydantic pydantic-core annotated-types typing-inspection typing-extensions)

if [[ ${1:-} == download ]]; then
    if (($# < 2)); then
        echo "error: download: give the version of Python there, such as 3.12" >&2
        exit 2
    fi
    exec "$python" -m pip download --no-deps --only-binary :all: --python-version "$2" \
        --constraint requirements/lock.txt --dest "$wheels" "${packages[@]}" "${@:3}"
fi

# About ten seconds, once.
missing='from importlib.util import find_spec
print(*(name for name in ("albumentations", "blosc2") if find_spec(name) is None))'
if [[ ! -d $site && -n $("$python" -c "$missing") ]]; then
    if ! compgen -G "$wheels/*.whl" >/dev/null; then
        echo "error: albumentations or blosc2 is missing, and $wheels is empty: run" \
            "'benchmarks/gpu.sh download <version of Python>' where there is a network" >&2
        exit 2
    fi
    "$python" -m pip install --quiet --no-index --no-deps --target "$site.part" "$wheels"/*.whl
    mv "$site.part" "$site"
fi
[[ ! -d $site ]] || export PYTHONPATH=$PWD/$site${PYTHONPATH:+:$PYTHONPATH}
exec "$python" benchmarks/gpu.py "$@"
