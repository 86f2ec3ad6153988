#!/usr/bin/env bash
# Runs the tests: ./test.sh the quick ones (five minutes on 2 cores), ./test.sh --all also the
# long ones. Other arguments go to pytest. The first run sets up .venv, which train.sh shares.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/setup.sh
ensure_environment requirements/dev.txt

marker="not long"
arguments=()
for argument in "$@"; do
    case $argument in
    --all) marker="" ;;
    --long) marker="long" ;;
    *) arguments+=("$argument") ;;
    esac
done
# Two processes, a file to each in turn, the longest first (tests/conftest.py); one torch thread each
# is faster than two that share cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Without kept bytecode each process spends half of its start on compiling the tests.
unset PYTHONDONTWRITEBYTECODE
exec "$PYTHON_BIN" -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
    -m "$marker" ${arguments[@]+"${arguments[@]}"}
