#!/usr/bin/env bash
# A submission of today's means: nine channels, modern backbones, averaged weights, a transformer and a
# BiGRU over the slices of a series, blended per label and calibrated.
#
#   recipes/best.sh <folder of the RSNA data>      SIZE=small (one GPU of 12 GB), SIZE=large (80 GB)
#   RECIPE_TINY=1 recipes/best.sh                  demo, minutes
#
# No published score: nobody has run this on the RSNA data, nor have we. What its parts gave others:
# neighbours and sequence models .005 to .008 of weighted log loss, blends .002 to .003; published for
# one network of slices and studies, 2022: private board .04368, and .04345 with three checkpoints.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/common.sh

DATASET=${DATASET:-$(of rsna demo)}
NUM_FOLDS=${NUM_FOLDS:-$(of 5 2)}
SIZE=${SIZE:-small}
case $SIZE in
small)
    BACKBONES="convnext"
    declare -A model=([convnext]=convnext_tiny.in12k_ft_in1k_384)
    PIXELS=384 BATCH=16 ACCUMULATION=4 EPOCHS=5
    ;;
large)
    BACKBONES="convnext maxvit"
    declare -A model=(
        [convnext]=convnext_base.fb_in22k_ft_in1k_384 [maxvit]=maxvit_base_tf_512.in21k_ft_in1k
    )
    PIXELS=512 BATCH=16 ACCUMULATION=4 EPOCHS=6
    ;;
*) fail "SIZE is small or large, not $SIZE" ;;
esac
if ((TINY)); then
    BACKBONES="convnext maxvit" EPOCHS=2
    model=([convnext]=test_convnext [maxvit]=test_efficientnet)
fi
STUDY_EPOCHS=$(of 30 5)
STUDY_BATCH=32

folder=$(data_folder "${1:-}")
for name in $BACKBONES; do require_weights "${model[$name]}"; done

# The data: hours for 870,000 DICOM files, once for all recipes.
prepare_data "$folder"
count_rows
size=$((BATCH * ACCUMULATION))

# The networks of slices: the slice and its neighbours, each in three windows.
members=()
for name in $BACKBONES; do
    train_slices "best-$SIZE-$name" "${model[$name]}" --data_dataset "$DATASET" --data_fold all \
        --data_neighbors 1 --data_train_transform best_train --data_valid_transform best_valid \
        --data_test_transform best_tta --data_img_size "$PIXELS" --pr_tta_views flip_lr \
        --net_drop_rate 0.3 --net_drop_path_rate 0.1 --tr_batch_size "$BATCH" \
        --tr_accumulation_step "$ACCUMULATION" --tr_iteration_num "$(steps "$EPOCHS" "$size")" \
        --tr_iteration_valid "$(steps 1 "$size")" --optim adamw --optim_weight_decay 0.05 \
        --optim_layer_decay 0.85 --optim_ema_decay "$(of 0.9995 0.9)" \
        --optim_scheduler warmup_cosine --optim_scheduler_max_lr 3e-4 \
        --optim_scheduler_warmup 0.05
    members+=("best-$SIZE-$name")
done

# The sequence networks over their outputs: an hour or two.
slices_of=$(joined "${members[@]}")
epoch=$(steps 1 "$STUDY_BATCH" "$STUDIES")
for name in transformer bigru; do
    train "best-$SIZE-$name" --net_model "study-$name" --data_dataset "$DATASET" --data_fold all \
        --data_features "$slices_of" --net_study_inputs both --net_drop_rate 0.3 \
        --tr_batch_size "$STUDY_BATCH" --tr_iteration_num "$((STUDY_EPOCHS * epoch))" \
        --tr_iteration_valid "$((5 * epoch))" --optim adamw --optim_weight_decay 0.05 \
        --optim_ema_decay "$(of 0.999 0.9)" --optim_scheduler one_cycle_lr \
        --optim_scheduler_max_lr 5e-4
    members+=("best-$SIZE-$name")
done

# Minutes: the weights of each label and its calibration, both fitted on other folds than scored.
blend "best-$SIZE" "$(joined "${members[@]}")" --ens_method weights --ens_calibration temperature \
    --ens_consistency 1 "${last[@]}"
