#!/usr/bin/env bash
# Spreads `incise stats` and `incise edit` over the machines of a Slurm cluster.
#
#   statistics   array of SHARDS tasks   every one reads the text and runs its share of sequences
#   values       array of SHARDS tasks   every one searches its share of the facts
#   join_…       one task each           `stats merge`, `merge`
#   patch        one task                `edit --values`: the solve, with nothing left to search
#
# The two arrays need nothing of each other and run side by side. A task that is killed or requeued
# goes on from what it kept. Submit from the login node, with the settings below in the environment:
#
#   MODEL=/shared/gpt-j CORPUS=/shared/wikipedia.txt REQUESTS=facts.jsonl LAYERS=3-8 \
#       CONTEXTS=contexts.json OUT=/shared/facts SHARDS=16 tools/slurm_edit.sh submit
#
# ends with $OUT/patch.safetensors. STATS=FOLDER in place of CORPUS and LAYERS names statistics that
# are there already; those that are collected are $OUT/statistics, and serve further edits. All
# paths must be seen by all machines. Resources are sbatch's own business: it reads SBATCH_PARTITION,
# SBATCH_ACCOUNT and their like from the environment, and SEARCH and SOLVE hold further options for
# the arrays and for the last task. METHOD, HPARAMS and MAX_TOKENS stand for the options so named.
#
# Without Slurm, a stage is run by its name; SLURM_ARRAY_TASK_ID says which task of its array it is:
#
#   export MODEL=… CORPUS=… REQUESTS=… LAYERS=3-8 OUT=/tmp/facts SHARDS=2
#   for i in 0 1; do SLURM_ARRAY_TASK_ID=$i tools/slurm_edit.sh statistics; done
#   for i in 0 1; do SLURM_ARRAY_TASK_ID=$i tools/slurm_edit.sh values; done
#   for stage in join_statistics join_values patch; do tools/slurm_edit.sh $stage; done
set -euo pipefail

case ${1:-} in
submit | statistics | values | join_statistics | join_values | patch) ;;
*)
    sed -n '2,/^set/ { /^set/d; s/^# \{0,1\}//; p }' "$0" >&2
    exit 2
    ;;
esac
: "${MODEL:?folder of the checkpoint}" "${REQUESTS:?file of requests}" "${OUT:?folder for results}"
if [[ -z ${STATS:=} ]]; then
    : "${CORPUS:?text file for the statistics}" "${LAYERS:?layers to edit, such as 3-8}"
fi
SHARDS=${SHARDS:-8}
METHOD=${METHOD:-memit}
INCISE=${INCISE:-incise}
SEARCH=${SEARCH:---cpus-per-task=8}
SOLVE=${SOLVE:---cpus-per-task=16}
# Contexts are drawn from the model where none are given. Machines of different kinds may then draw
# different ones, and values found for one are no use to another: on a mixed cluster, name a file.
options=(--method "$METHOD" ${HPARAMS:+--hparams "$HPARAMS"} ${CONTEXTS:+--contexts "$CONTEXTS"})
# As many threads as the task has processors, not as the machine has.
threads=(${SLURM_CPUS_PER_TASK:+--threads "$SLURM_CPUS_PER_TASK"})

# The folders or files of all shards, in order.
pieces() { for ((i = 0; i < SHARDS; i++)); do printf '%s\n' "$OUT/$1-$i"; done; }

statistics() {
    local i=${SLURM_ARRAY_TASK_ID:?which task of the array}
    "$INCISE" stats "$MODEL" --layers "$LAYERS" --corpus "$CORPUS" \
        ${MAX_TOKENS:+--max-tokens "$MAX_TOKENS"} "${threads[@]}" \
        --shard "$i/$SHARDS" -o "$OUT/statistics-$i"
}

values() {
    local i=${SLURM_ARRAY_TASK_ID:?which task of the array}
    "$INCISE" edit "$MODEL" "$REQUESTS" "${options[@]}" "${threads[@]}" \
        --shard "$i/$SHARDS" -o "$OUT/values-$i"
}

# Refused by name if a shard is missing.
join_statistics() {
    mapfile -t folders < <(pieces statistics)
    "$INCISE" stats merge "${folders[@]}" -o "$OUT/statistics"
}

join_values() {
    mapfile -t files < <(pieces values)
    "$INCISE" merge "${files[@]}" -o "$OUT/values"
}

patch() {
    "$INCISE" edit "$MODEL" "$REQUESTS" "${options[@]}" "${threads[@]}" \
        --stats "${STATS:-$OUT/statistics}" --values "$OUT/values" -o "$OUT/patch.safetensors"
}

# Queues a stage behind the jobs in $after (numbers with colons between) and prints its number.
queue() {
    local stage=$1 after=$2
    shift 2
    sbatch --parsable --requeue --job-name="incise-$stage" --output="$OUT/%x-%j.log" \
        ${after:+--dependency="afterok:$after" --kill-on-invalid-dep=yes} "$@" "$0" "$stage" |
        cut -d ';' -f 1
}

submit() {
    local array=--array=0-$((SHARDS - 1)) before statistics
    # shellcheck disable=SC2086  # SEARCH and SOLVE hold several options
    before=$(queue values "" "$array" $SEARCH)
    before=$(queue join_values "$before")
    if [[ -z $STATS ]]; then
        statistics=$(queue statistics "" "$array" $SEARCH)
        before+=:$(queue join_statistics "$statistics")
    fi
    queue patch "$before" $SOLVE
}

mkdir -p "$OUT"
export MODEL REQUESTS OUT SHARDS METHOD INCISE STATS CORPUS=${CORPUS:-} LAYERS=${LAYERS:-}
export HPARAMS=${HPARAMS:-} CONTEXTS=${CONTEXTS:-} MAX_TOKENS=${MAX_TOKENS:-}
"$1"
