# shellcheck shell=bash disable=SC2034,SC2154
# Functions that the recipes share; sourced from the project's folder. A recipe sets DATASET, NUM_FOLDS and
# folder (of the original files).
#
#   RECIPE_TINY=1   the whole chain on the demo data with tiny networks, in minutes
#   RECIPE_DRY=1    prints the commands of a first run, for the full data, and runs none
#   INPUT, OUTPUT   folders for data and results (input, output)
#   N_JOBS          processes that prepare and load data (auto: by the machine)
#   SUBMIT=1        the last submission is sent to the competition (requirements/kaggle.txt)
#   PRETRAINED=0    random weights where the ImageNet weights can't be had
#   RECIPE_PYTHON   an interpreter that has the requirements (.venv, made where it is missing)
#
# A stage that is done is skipped, one that was interrupted goes on: run the same command again.
# Experiments have names of their own, such as appian-se50; to repeat one, remove its folder.

source scripts/setup.sh

say() { echo "== $*" >&2; }

fail() {
    echo "error: $*" >&2
    exit 2
}

TINY=${RECIPE_TINY:-0}
DRY=${RECIPE_DRY:-0}
INPUT=${INPUT:-input}
OUTPUT=${OUTPUT:-output}
PRETRAINED=${PRETRAINED:-1}
N_JOBS=${N_JOBS:-auto}

# needs FILE: installs a requirements file, unless RECIPE_PYTHON says that all is there.
needs() { ((DRY)) || [[ -n ${RECIPE_PYTHON:-} ]] || ensure_environment "$1"; }

PYTHON_BIN=${RECIPE_PYTHON:-$PYTHON_BIN}
needs requirements.txt

if ((TINY)); then
    N_JOBS=0
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
fi
# Flags of the last blend of a recipe that send its submission.
last=()
if ((${SUBMIT:-0})); then
    [[ ${FOLD:-all} == all ]] || fail "SUBMIT=1 needs FOLD=all: one fold has no test predictions"
    needs requirements/kaggle.txt
    last=(--pr_submit rsna-intracranial-hemorrhage-detection)
fi

places=(--data_input_folder "$INPUT" --output_dir "$OUTPUT" --n_jobs "$N_JOBS")
long=(--tr_iteration_checkpoint 1000)
tiny_images=(--data_img_size 64)
tiny=(--mlflow_enabled 0 --tr_batch_size 8 --tr_batch_size_valid 64 --tr_accumulation_step 1)

# of FULL TINY: the first of the two, or the second with RECIPE_TINY=1.
of() { if ((TINY)); then echo "$2"; else echo "$1"; fi; }

# run SCRIPT FLAGS...: runs one of the project's scripts; those in scripts/ are modules.
run() {
    if [[ $1 == scripts/* ]]; then
        local module=${1%.py}
        shift
        set -- -m "${module/\//.}" "$@"
    fi
    if ((DRY)); then
        printf '%q ' "$@"
        echo
    else
        say "$*"
        "$PYTHON_BIN" "$@"
    fi
}

# is_done ID [FILE]: the experiment has its predictor, and FILE, the last that its stage writes.
is_done() {
    local folder=$OUTPUT/results/$1
    ((!DRY)) && [[ -f $folder/predictor/predictor.json && -e ${2:-$folder} ]]
}

# is_trained ID: one fold has its predictor; a training of all folds has its report too.
is_trained() {
    local folder=$OUTPUT/results/$1
    if [[ -d $folder/fold_0 ]]; then is_done "$1" "$folder/report.html"; else is_done "$1"; fi
}

# has_checkpoint ID: there is something to go on from.
has_checkpoint() {
    [[ -n $(find "$OUTPUT/results/$1" -name last.pt -print -quit 2>/dev/null) ]]
}

# discard ID: what a stage left that was stopped and can't go on.
discard() {
    if [[ -d $OUTPUT/results/$1 ]]; then
        say "$1 was stopped with nothing to go on from: it starts anew"
        rm -r -- "${OUTPUT:?}/results/$1"
    fi
}

# train ID FLAGS...: trains an experiment, goes on with it, or leaves it where it is done.
train() {
    local id=$1
    shift
    if is_trained "$id"; then
        say "$id is done"
    elif ((!DRY)) && has_checkpoint "$id"; then
        run train.py --experiment_id "$id" --tr_resume 1 "${places[@]}"
    else
        ((DRY)) || discard "$id"
        local extra=()
        ((TINY)) && extra=("${tiny[@]}")
        run train.py --experiment_id "$id" "${places[@]}" "$@" "${extra[@]}"
    fi
}

# train_slices ID MODEL FLAGS...: a network of slices, from ImageNet weights.
train_slices() {
    local id=$1 model=$2 pretrained=$PRETRAINED extra=()
    shift 2
    ((TINY)) && pretrained=0 extra=("${tiny_images[@]}")
    train "$id" --net_model "$model" --net_pretrained "$pretrained" "${long[@]}" "$@" "${extra[@]}"
}

# evaluate ID FLAGS...: scores an experiment of one fold; one of all folds has been scored.
evaluate() {
    local id=$1
    shift
    is_done "$id" "$OUTPUT/results/$id/report.html" ||
        run evaluate.py --experiment_id "$id" "${places[@]}" "$@"
}

# level SCRIPT ID LAST FLAGS...: a second level or a blend, whose last file is LAST. It is short
# and starts anew where it was stopped.
level() {
    local script=$1 id=$2 written=$3
    shift 3
    if is_done "$id" "$written"; then
        say "$id is done"
        return
    fi
    ((DRY)) || discard "$id"
    run "$script" --experiment_id "$id" --data_input_folder "$INPUT" --output_dir "$OUTPUT" "$@"
}

# trees ID MEMBERS FLAGS...: boosted trees over the out-of-fold predictions of neighbouring slices.
trees() {
    local id=$1 members=$2
    shift 2
    level scripts/second_level.py "$id" "$OUTPUT/results/$id/report.html" --sl_method boosting \
        --sl_experiments "$members" "$@"
}

# blend ID MEMBERS FLAGS...: blends experiments (ids with commas), and writes their submission where
# all of them predict the test, which those of all folds do.
blend() {
    local id=$1 members=$2 written=$OUTPUT/results/$1/report.html submission=()
    shift 2
    if [[ ${FOLD:-all} == all ]]; then
        written=$OUTPUT/submissions/$id/submission.csv
        submission=(--pr_dataframe "$folder/stage_2_sample_submission.csv"
            --pr_output "$OUTPUT/submissions/$id")
    fi
    level ensemble.py "$id" "$written" --data_dataset "$DATASET" --ens_experiments "$members" \
        "${submission[@]}" "$@"
}

# pseudo_labels NAME ID FLAGS...: a dataset NAME of $DATASET and slices that experiment ID labels.
pseudo_labels() {
    local name=$1 id=$2
    shift 2
    if ((!DRY)) && [[ -f $INPUT/datasets/$name/manifest.json ]]; then
        say "dataset $name is there"
        return
    fi
    run scripts/pseudo_label.py --experiment_id "$id" --data_dataset "$DATASET" \
        --data_input_folder "$INPUT" --output_dir "$OUTPUT" --pl_name "$name" "$@"
}

# joined NAME...: the names with commas between them.
joined() {
    local IFS=,
    echo "$*"
}

# prepare_data FOLDER: the RSNA data (tiny: the demo) as dataset $DATASET, with $NUM_FOLDS folds.
prepare_data() {
    local source=(--pre_source rsna --pre_folder "$1")
    ((TINY)) && source=(--pre_source demo)
    if ((!DRY)) && [[ -f $INPUT/datasets/$DATASET/manifest.json ]]; then
        say "dataset $DATASET is there"
        return
    fi
    run preprocessing.py "${source[@]}" --data_dataset "$DATASET" --pre_num_folds "$NUM_FOLDS" \
        --data_input_folder "$INPUT" --n_jobs "$N_JOBS"
}

# data_folder [FOLDER]: where the original files are; the demo has a place of its own.
data_folder() {
    if ((TINY)); then
        echo "$INPUT/demo"
    elif [[ -n ${1:-} ]]; then
        echo "$1"
    elif ((DRY)); then
        echo rsna
    else
        fail "name the folder of the RSNA data, with stage_2_train.csv and the DICOM folders"
    fi
}

# count_rows: sets ROWS and STUDIES, what one fold trains on; in a dry run those of RSNA stage 2.
count_rows() {
    if ((DRY)); then
        ROWS=$((752803 * (NUM_FOLDS - 1) / NUM_FOLDS)) STUDIES=$((21744 * (NUM_FOLDS - 1) / NUM_FOLDS))
    else
        read -r ROWS STUDIES < <("$PYTHON_BIN" recipes/training_rows.py "$INPUT/datasets/$DATASET")
    fi
}

# steps EPOCHS BATCH [SAMPLES]: optimizer steps of so many epochs of the fold's rows, or of SAMPLES.
steps() {
    if ((TINY)); then
        echo $(($1 * 2))
    else
        echo $(($1 * ((${3:-$ROWS} + $2 - 1) / $2)))
    fi
}

# require_weights MODEL...: loads ImageNet weights before hours are spent; says how to go on without.
require_weights() {
    if ((!DRY && !TINY && PRETRAINED)); then
        "$PYTHON_BIN" recipes/weights.py "$@"
    fi
}
