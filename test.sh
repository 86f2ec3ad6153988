#!/usr/bin/env bash
# Runs the tests: ./test.sh the quick ones (under 5 minutes on 2 cores), ./test.sh --all also the
# long ones. Other arguments go to pytest. The first run sets up .venv, which train.sh shares.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source setup.sh
ensure_environment requirements-dev.txt

marker="not long"
arguments=()
for argument in "$@"; do
    case $argument in
    --all) marker="" ;;
    --long) marker="long" ;;
    *) arguments+=("$argument") ;;
    esac
done
exec "$PYTHON_BIN" -m pytest -m "$marker" ${arguments[@]+"${arguments[@]}"}
