#!/usr/bin/env bash
# The most that 60 patients and two processor hours give: CT-ICH out of fold, and a network of all.
#
#   recipes/ct_ich.sh <folder of CT-ICH>
#
# Sixty patients are too few to learn from alone. So a network of three slices learns from phantoms
# first, and from the patients beside the phantoms then; its predictions are smoothed along the
# series, and calibrated with those of other folds. All that is printed at the end is of last
# weights and of patients that were not trained on. The settings were chosen on folds 0 and 1 by
# benchmarks/ct_ich_ablation.py; folds 2 to 4 had no part in it and are printed apart.
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

# Slices above and below; brain, subdural and bone windows at 192 pixels.
network="--net_model tf_efficientnet_lite0 --data_neighbors 1 --data_train_transform ct_ich_train"
network+=" --data_valid_transform ct_ich_valid --data_test_transform ct_ich_train"
read -ra network <<<"${NETWORK:-$network}"
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

# merge NAME BASE OTHER FLAGS...: the dataset BASE with its folds, and OTHER, which is only trained on.
merge() {
    local name=$1 base=$2 other=$3
    shift 3
    has_dataset "$name" || run scripts/pseudo_label.py --data_dataset "$base" --pl_source "$other" \
        --pl_labels given --pl_name "$name" --data_input_folder "$INPUT" --output_dir "$OUTPUT" "$@"
}

has_dataset() { ((!DRY)) && [[ -f $INPUT/datasets/$1/manifest.json ]]; }

prepare demo --pre_source demo
prepare ct_ich --pre_source ct_ich --pre_folder "$folder"
# About seven slices of phantoms beside ten of patients.
merge ct_ich_demo ct_ich demo --pl_num_patients "$(of 27 7)"
# All patients are trained on where the folds are those of the phantoms.
merge demo_ct_ich demo ct_ich

weights=${START:-$OUTPUT/results/ct_ich_start/predictor/model.pt}
if [[ -z ${START:-} ]]; then
    train ct_ich_start --data_dataset demo "${network[@]}" "${once[@]}" \
        --tr_iteration_num "$(of 320 4)"
fi

patients=("${network[@]}" "${once[@]}" "${gentle[@]}" --net_weight_file "$weights")
train ct_ich --data_dataset ct_ich_demo --data_fold all --tr_features 0 "${patients[@]}" \
    --tr_iteration_num "$(of 350 4)"
level scripts/second_level.py ct_ich_smooth "$OUTPUT/results/ct_ich_smooth/report.html" \
    --sl_experiments ct_ich
level ensemble.py ct_ich_final "$OUTPUT/results/ct_ich_final/report.html" \
    --ens_experiments ct_ich_smooth --ens_calibration temperature

# The same of all patients, for as many passes over them, with as large a share of phantoms: it
# predicts with the smoothing and the calibration of the folds.
train ct_ich_all --data_dataset demo_ct_ich --data_fold 0 --data_leave_out_fold 1 "${patients[@]}" \
    --tr_iteration_num "$(of 440 4)"
run recipes/release.py ct_ich_final ct_ich_all --output_dir "$OUTPUT"

say "out of fold: folds 2 to 4, which nothing was chosen on"
run benchmarks/pooled_folds.py ct_ich_final --output_dir "$OUTPUT" --folds 2,3,4
say "out of fold: all patients, those of folds 0 and 1 too, on which the settings were chosen"
run benchmarks/pooled_folds.py ct_ich_final --output_dir "$OUTPUT"
