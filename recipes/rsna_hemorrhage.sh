#!/usr/bin/env bash
# RSNAHemorrhage (hkristof03): SE-ResNeXt50 and EfficientNets with the complex augmentation, a
# network of `any` alone, CQ500 as extra data, and an ensemble.
#
#   recipes/rsna_hemorrhage.sh <folder of the RSNA data> [folder of CQ500]
#   RECIPE_TINY=1 recipes/rsna_hemorrhage.sh                     demo, minutes
#
# Published: best checkpoints .0774, .0729, .0755 and .0710 as weighted log losses (the author's
# numbers times 6/7), chosen on the rows that they are scored on, which were seen in random crops.
# No score of the ensemble is published. None is measured here, and no times are published.
#
# Departs from the original where that was a defect: absolute HU are kept (theirs were stretched to
# the range of each slice), validation is deterministic and of all rows, slices without brain are
# predicted too, noise has the strength that was meant, folds are balanced for labels, a fold at a
# time is not validated each 1000 batches but after each epoch, and accumulated batches make one
# step. CQ500 labels scans, not slices: its slices get pseudo-labels of the first ensemble.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/common.sh

DATASET=${DATASET:-$(of rsna demo)}
NUM_FOLDS=${NUM_FOLDS:-$(of 5 2)}
FOLD=${FOLD:-all} # the original: one
NETWORKS=${NETWORKS:-$(of "se50 b0 b2" "se50 b0")}
EPOCHS=$(of 29 2) # 416,500 batches of 30
ANY_EPOCHS=$(of 57 1) # 380,500 batches of 64
NUM_VIEWS=$(of 5 1)

folder=$(data_folder "${1:-}")
cq500=${2:-}
declare -A model=(
    [se50]=$(of rsna-seresnext-50.32.4d test_resnet)
    [b0]=$(of rsna-efficientnet-b0 test_efficientnet)
    [b2]=rsna-efficientnet-b2 [b5]=rsna-efficientnet-b5
)
# At 410 pixels normalised, at 512 not: the networks' own normalisation is used.
declare -A train=([se50]=rsna_hemorrhage_train) valid=([se50]=rsna_hemorrhage_valid)
declare -A views=([se50]=rsna_hemorrhage_tta)
declare -A batch=([se50]=30 [b0]=30 [b2]=15 [b5]=6) accumulation=([se50]=2 [b0]=2 [b2]=4 [b5]=10)
no_features=() # only all folds write features, which nothing here reads
if [[ $FOLD == all ]]; then no_features=(--tr_features 0); fi
for name in $NETWORKS; do require_weights "${model[$name]}"; done

# The data: hours for 870,000 DICOM files, once for all recipes.
prepare_data "$folder"
count_rows

# network ID NAME FLAGS...: RAdam with one cycle, and a weight of `any` that falls over the training.
network() {
    local id=$1 name=$2 size
    shift 2
    size=$((batch[$name] * accumulation[$name]))
    train_slices "$id" "${model[$name]}" --data_fold "$FOLD" \
        --data_train_transform "${train[$name]:-train_complex_512}" \
        --data_valid_transform "${valid[$name]:-valid_simple_512}" \
        --data_test_transform "${views[$name]:-test_intermediate_tta_512}" --pr_tta "$NUM_VIEWS" \
        "${no_features[@]}" --tr_batch_size "${batch[$name]}" \
        --tr_accumulation_step "${accumulation[$name]}" \
        --tr_iteration_num "$(steps "$EPOCHS" "$size")" --tr_iteration_valid "$(steps 1 "$size")" \
        --tr_clip_norm 0.5 --tr_any_weight_schedule 1 --net_drop_rate 0 --optim radam \
        --optim_weight_decay 0 --optim_ema_decay 0 --optim_scheduler one_cycle_lr \
        --optim_scheduler_max_lr 1e-4 --optim_scheduler_pct_start 0.3 "$@"
}

members=()
for name in $NETWORKS; do
    network "rsna_hemorrhage-$name" "$name" --data_dataset "$DATASET"
    members+=("rsna_hemorrhage-$name")
done

# Any hemorrhage alone: one label, one fold; not a member of the ensemble of six.
train_slices rsna_hemorrhage-any "${model[b0]}" --net_num_classes 1 --data_dataset "$DATASET" \
    --data_fold 0 --data_train_transform rsna_hemorrhage_train \
    --data_valid_transform rsna_hemorrhage_valid --data_test_transform rsna_hemorrhage_tta \
    --tr_batch_size 64 --tr_iteration_num "$(steps "$ANY_EPOCHS" 64)" \
    --tr_iteration_valid "$(steps 1 64)" --tr_clip_norm 0.5 --optim radam --optim_weight_decay 0 \
    --optim_ema_decay 0 --optim_scheduler warmup_cosine --optim_scheduler_max_lr 1e-3
evaluate rsna_hemorrhage-any

# CQ500, where its folder is given: the networks score its scans, which none of them has seen, and
# label the slices they are sure of; slices of scans without a label do not have it. An ensemble
# that was made without CQ500 has to be removed first: it is done.
if [[ -n $cq500 ]]; then
    [[ $FOLD == all ]] || fail "CQ500 as extra data needs FOLD=all"
    blend rsna_hemorrhage-rsna "$(joined "${members[@]}")"
    if ((DRY)) || [[ ! -f $INPUT/datasets/cq500/manifest.json ]]; then
        run preprocessing.py --pre_source cq500 --pre_folder "$cq500" --data_dataset cq500 \
            --data_input_folder "$INPUT" --n_jobs "$N_JOBS"
    fi
    if ((DRY)) || [[ ! -f $OUTPUT/results/rsna_hemorrhage-rsna/evaluations/cq500/report.html ]]; then
        run evaluate.py --experiment_id rsna_hemorrhage-rsna --data_dataset cq500 "${places[@]}"
    fi
    pseudo_labels "$DATASET-cq500" rsna_hemorrhage-rsna --pl_source cq500 --pl_labels hard \
        --pl_use_studies 1 --pl_positive "$(of "[0.9]" "[0.5]")" --pl_negative "$(of "[0.1]" "[0.5]")"
    network rsna_hemorrhage-cq500 se50 --data_dataset "$DATASET-cq500"
    members+=(rsna_hemorrhage-cq500)
fi

# The ensemble, a plain mean, and its submission: output/submissions/rsna_hemorrhage.
blend rsna_hemorrhage "$(joined "${members[@]}")" --ens_method mean "${last[@]}"
