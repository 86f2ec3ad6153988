#!/usr/bin/env bash
# The most that 60 patients and two processor hours give: CT-ICH out of fold, and a network of all.
#
#   recipes/ct_ich.sh <folder of CT-ICH>
#
# Sixty patients are too few to learn from alone, so each fold starts from a network that has seen
# phantoms. Its predictions are smoothed along the series, and calibrated, slices and studies, with
# those of other folds. All that is printed at the end is of last weights and of patients that were
# not trained on. The settings were chosen on folds 0 and 1 (benchmarks/ct_ich_ablation.py); folds
# 2 to 4 had no part in it and are printed apart.
#
#   INPUT, OUTPUT   folders for data and results (input, output)
#   START           weights to start from in place of those of phantoms, of a network made by
#   NETWORK         these flags (of the network and of its input)
#   N_JOBS, RECIPE_TINY, RECIPE_DRY, RECIPE_PYTHON: as of the other recipes (recipes/common.sh)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DATASET=ct_ich
NUM_FOLDS=5
source recipes/common.sh

folder=${1:-}
if [[ -z $folder ]]; then
    ((DRY)) || fail "name the folder of CT-ICH, with Patients_CT/ and hemorrhage_diagnosis.csv"
    folder=ct_ich
fi

read -ra network <<<"${NETWORK:---net_model tf_efficientnet_lite0}"
# Less learning rate and more dropout than from ImageNet: the network has seen blood, and the
# patients are few.
gentle=(--optim_scheduler_max_lr 3e-4 --net_drop_rate 0.3 --net_drop_path_rate 0.1)
once=(--tr_iteration_valid 0 --tr_valid_raw 0)
((TINY)) && once+=("${tiny_images[@]}")

# prepare NAME FLAGS...: the dataset NAME.
prepare() {
    local name=$1
    shift
    has_dataset "$name" ||
        run preprocessing.py --data_dataset "$name" --data_input_folder "$INPUT" --n_jobs "$N_JOBS" "$@"
}

has_dataset() { ((!DRY)) && [[ -f $INPUT/datasets/$1/manifest.json ]]; }

# A wrong folder is refused before the phantoms are made.
prepare ct_ich --pre_source ct_ich --pre_folder "$folder"
prepare demo --pre_source demo

weights=${START:-$OUTPUT/results/ct_ich_start/predictor/model.pt}
if [[ -z ${START:-} ]]; then
    train ct_ich_start --data_dataset demo "${network[@]}" "${once[@]}" \
        --tr_iteration_num "$(of 260 4)"
fi

patients=("${network[@]}" "${once[@]}" "${gentle[@]}" --net_weight_file "$weights")
train ct_ich --data_dataset ct_ich --data_fold all --tr_features 0 "${patients[@]}" \
    --tr_iteration_num "$(of 300 4)"
level scripts/second_level.py ct_ich_smooth "$OUTPUT/results/ct_ich_smooth/report.html" \
    --sl_experiments ct_ich
level ensemble.py ct_ich_final "$OUTPUT/results/ct_ich_final/report.html" \
    --ens_experiments ct_ich_smooth --ens_calibration temperature

# The same of all patients, for as many passes over them; phantoms are validated on, as no patient is
# left. It predicts with the smoothing and the calibration of the folds.
if ! has_dataset ct_ich_all; then
    run scripts/pseudo_label.py --data_dataset demo --pl_source ct_ich --pl_labels given \
        --pl_name ct_ich_all --data_input_folder "$INPUT" --output_dir "$OUTPUT"
fi
run recipes/all_patients.py "$INPUT/datasets/ct_ich_all" ct_ich
train ct_ich_all --data_dataset ct_ich_all --data_fold 0 "${patients[@]}" \
    --tr_iteration_num "$(of 375 4)"
run recipes/release.py ct_ich_final ct_ich_all --output_dir "$OUTPUT"

say "out of fold: folds 2 to 4, which nothing was chosen on"
run benchmarks/pooled_folds.py ct_ich_final --output_dir "$OUTPUT" --folds 2,3,4
say "out of fold: all patients, those of folds 0 and 1 too, on which the settings were chosen"
run benchmarks/pooled_folds.py ct_ich_final --output_dir "$OUTPUT"
