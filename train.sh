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
source setup.sh
ensure_environment requirements.txt

# The value of a flag among the arguments, or a default.
value_of() {
    local flag=$1 value=$2 previous=
    shift 2
    for argument in "$@"; do
        [[ $previous == "$flag" ]] && value=$argument
        [[ $argument == "$flag="* ]] && value=${argument#*=}
        previous=$argument
    done
    echo "$value"
}

for argument in "$@"; do
    case $argument in -h | --help | --print_config*) exec "$PYTHON_BIN" train.py "$@" ;; esac
done

dataset=$(value_of --data_dataset demo "$@")
input=$(value_of --data_input_folder input "$@")
output=$(value_of --output_dir output "$@")

# About two minutes, once: heads are generated, written as DICOM, and prepared like any others.
if [[ $dataset == demo ]]; then
    "$PYTHON_BIN" preprocessing.py --pre_source demo --data_dataset demo --data_input_folder "$input"
fi

# About five minutes with the defaults on two cores. The id of the experiment comes on stdout.
experiment=$("$PYTHON_BIN" train.py "$@")

# Half a minute: metrics.json, report.html and the table on the screen.
"$PYTHON_BIN" evaluate.py --experiment_id "$experiment" \
    --output_dir "$output" --data_input_folder "$input"
