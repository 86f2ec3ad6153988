#!/usr/bin/env bash
# CT-ICH with the default network: folds 0, 1 and 2 of 5, pooled.
#
#   recipes/ct_ich.sh <folder of CT-ICH>
#
# Sixty patients are too few to learn from alone, so each fold starts from the demo's network, which
# has seen phantoms only. What counts are the last averaged weights; the best checkpoints, chosen on
# the rows they are scored on, are printed for comparison and marked. Stages that are done are
# skipped. INPUT and OUTPUT name the folders for data and results (input, output).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
ensure_environment requirements.txt

folder=${1:?the folder of CT-ICH, with Patients_CT/ and hemorrhage_diagnosis.csv}
input=${INPUT:-input}
output=${OUTPUT:-output}
places=(--data_input_folder "$input" --output_dir "$output")

run() { "$PYTHON_BIN" "$@"; }
is_done() { [[ -f $output/results/$1/predictor/predictor.json ]]; }

# The demo's network: about eight minutes on two cores, data included.
if ! is_done demo_start; then
    run preprocessing.py --pre_source demo --data_dataset demo --data_input_folder "$input"
    run train.py --data_dataset demo --experiment_id demo_start "${places[@]}"
fi

# The real slices: half a minute.
run preprocessing.py --pre_source ct_ich --pre_folder "$folder" --data_dataset ct_ich \
    --data_input_folder "$input"

# Three folds, about five minutes each. Less learning rate and more dropout than from ImageNet:
# the network has seen blood, and the patients are few.
for fold in 0 1 2; do
    is_done "ct_ich_$fold" && continue
    resume=(--data_dataset ct_ich --data_fold "$fold" --tr_iteration_num 300
        --tr_iteration_valid 100 --net_weight_file "$output/results/demo_start/predictor/model.pt"
        --optim_scheduler_max_lr 3e-4 --net_drop_rate 0.3 --net_drop_path_rate 0.1)
    [[ -f $output/results/ct_ich_$fold/checkpoints/last.pt ]] && resume=(--tr_resume 1)
    run train.py --experiment_id "ct_ich_$fold" "${places[@]}" "${resume[@]}"
    run evaluate.py --experiment_id "ct_ich_$fold" "${places[@]}"
done

run benchmarks/pooled_folds.py ct_ich_0 ct_ich_1 ct_ich_2 --output_dir "$output"
