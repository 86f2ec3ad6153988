#!/usr/bin/env bash
# Renews requirements/lock.txt: the newest releases that pyproject.toml allows, for Python 3.11 to
# 3.13 on Linux. With --keep: what is locked stays, only what pyproject.toml has changed moves.
# Afterwards run ./test.sh --all, and write the version of torch into README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=.venv/bin/uv
[[ -x $uv ]] || uv=$(command -v uv) || { echo "error: uv is needed: pip install uv" >&2; exit 2; }
upgrade=--upgrade
[[ ${1:-} == --keep ]] && upgrade=
lock=requirements/lock.txt
"$uv" pip compile pyproject.toml --universal --python-version 3.11 --all-extras $upgrade --quiet \
    --no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file "$lock"
{
    echo "# The exact versions that the tests run with, of every package and extra, as constraints:"
    echo "# pip install -r requirements.txt -c $lock. Renewed by scripts/lock.sh."
    cat "$lock"
} >"$lock.new"
mv "$lock.new" "$lock"
