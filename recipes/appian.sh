#!/usr/bin/env bash
# appian (11th place): SE-ResNeXt50 at 512 pixels in three windows, five views, and boosted trees
# over the neighbours' predictions.
#
#   recipes/appian.sh <folder of the RSNA data>       RECIPE_TINY=1 recipes/appian.sh: demo, minutes
#
# | stage                          | published, patient folds          | time                     |
# |--------------------------------|-----------------------------------|--------------------------|
# | appian-se50, 5 views           | .0658 (8 folds, out of fold)      | 20,000 s an epoch on a   |
# | appian-se101 (BACKBONES)       | .0656                             | GTX 1080 Ti (se50;       |
# | appian-blend of the two        | .0642                             | published)               |
# | appian-trees                   | .0579 (LightGBM)                  |                          |
# | one fold of the first version  | .070 to .072 on the stage-1 board |                          |
# All published by the author; none is measured here. Scores are weighted log losses.
#
# Departs from the original where that was a defect: validation is deterministic (theirs drew),
# images that hold no brain are predicted too (theirs got the smallest prediction), slices are
# read from the store (theirs decoded DICOM in each epoch), the trees' number is settled within the
# training folds (theirs stopped on the fold they were scored on), and the mean of a study is that of
# its own label (theirs was always intraparenchymal). Five folds stand in for eight: set NUM_FOLDS=8
# and a DATASET of its own for theirs. An average of the weights (EMA) stands in for the mean of the
# predictions after epochs two and three.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/common.sh
needs requirements/boosting.txt

DATASET=${DATASET:-$(of rsna demo)}
NUM_FOLDS=${NUM_FOLDS:-$(of 5 2)}
BACKBONES=${BACKBONES:-$(of "se50" "se50 se101")}
EPOCHS=4
BATCH=28
NUM_VIEWS=$(of 5 1)

folder=$(data_folder "${1:-}")
declare -A model=(
    [se50]=$(of rsna-seresnext-50.32.4d test_resnet)
    [se101]=$(of rsna-seresnext-101.32.4d test_efficientnet)
)
declare -A size=([se50]=512 [se101]=480)
for name in $BACKBONES; do require_weights "${model[$name]}"; done

# The data: hours for 870,000 DICOM files, once for all recipes.
prepare_data "$folder"
count_rows
epoch=$(steps 1 "$BATCH")

# The networks. Adam, 1.4e-4 times 3/7 after each of the first three epochs; no weight decay, no
# dropout, no clipping. Random views of the test transform are averaged out of fold and for the test.
members=()
for name in $BACKBONES; do
    train_slices "appian-$name" "${model[$name]}" --data_dataset "$DATASET" --data_fold all \
        --data_train_transform appian_train --data_valid_transform appian_valid \
        --data_test_transform appian_tta --data_img_size "${size[$name]}" --pr_tta "$NUM_VIEWS" \
        --tr_features 0 --net_drop_rate 0 --tr_batch_size "$BATCH" \
        --tr_iteration_num "$(steps "$EPOCHS" "$BATCH")" --tr_iteration_valid "$epoch" \
        --tr_clip_norm 0 --optim adam --optim_weight_decay 0 --optim_ema_decay "$(of 0.999 0.9)" \
        --optim_scheduler multistep --optim_lr 1.4e-4 --optim_scheduler_gamma 0.4286 \
        --optim_scheduler_milestones "[$epoch,$((2 * epoch)),$((3 * epoch))]"
    members+=("appian-$name")
done

# Minutes: the mean of the networks, then trees over the predictions of nine slices on each side.
# The trees see out-of-fold predictions alone, and those of a fold are made by trees of the others.
networks=$(joined "${members[@]}")
((${#members[@]} < 2)) || blend appian-blend "$networks"
# Their number is settled on folds beside the one that is scored, which the tiny run has not.
trees appian-trees "$networks" --sl_neighbors 9 --sl_rounds "$(of 400 20)" \
    --sl_patience "$(of 30 0)"

# The submission, checked: output/submissions/appian/submission.csv.
blend appian appian-trees "${last[@]}"
