#!/usr/bin/env bash
# From nothing to a trained network and its report.
#
#   ./train.sh                              demo data are made, prepared, trained on, evaluated
#   ./train.sh --data_dataset ct_ich ...    all arguments go to train.py; then it is evaluated
#
# The first run sets up .venv; a second one keeps environment and data and starts the next
# experiment. Works from any folder; relative paths are seen from the folder of this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/setup.sh
ensure_environment requirements.txt

for argument in "$@"; do
    case $argument in -h | --help | --print_config*) exec "$PYTHON_BIN" train.py "$@" ;; esac
done

# The flags as they will be, whether they come from the command line or from a --config file.
flags=$("$PYTHON_BIN" train.py "$@" --print_config)
flag() { sed -n "s/^$1: *//p" <<<"$flags"; }
input=$(flag data_input_folder)
output=$(flag output_dir)

# About two minutes, once: heads are generated, written as DICOM, and prepared like any others.
if [[ $(flag data_dataset) == demo && $(flag tr_resume) == 0 ]]; then
    "$PYTHON_BIN" preprocessing.py --pre_source demo --data_dataset demo --data_input_folder "$input"
fi

# About five minutes with the defaults on two cores. The id of the experiment comes on stdout.
experiment=$("$PYTHON_BIN" train.py "$@")

# Half a minute: metrics.json, report.html and the table on the screen.
"$PYTHON_BIN" evaluate.py --experiment_id "$experiment" \
    --output_dir "$output" --data_input_folder "$input"

# The commands above call `python`, as every page does.
[[ -n ${VIRTUAL_ENV:-} ]] || echo "To run them, once in this shell: source $PWD/.venv/bin/activate" >&2
