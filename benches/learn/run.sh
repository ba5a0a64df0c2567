#!/usr/bin/env bash
# Runs of the chapter Training in ../RESULTS.md, one after another on one thread; tables.py prints their tables.
#
# usage: run.sh CORPORA MINILM OUT
#   CORPORA   directory with sotu/, brown/ and movies/
#   MINILM    directory of all-MiniLM-L6-v2
#   OUT       directory for splits, tokenizers, shards, logs and models; runs that are done are kept
#   PYTHON    an interpreter that has transformers and PyTorch; without it their runs are left out
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release
cargo build --release --example addition
here=$PWD corpora=$1 minilm=$2 out=$3
mkdir -p "$out"/{runs,logs,tok,shards}
cd "$out"
tilewright=$here/target/release/tilewright
text=(--documents files --sentences punctuation --threads 1)

prepare() {
    python3 "$here/benches/learn/prepare.py" "$corpora" .
    for family in bert roberta albert electra t5 bart gpt2 llama; do
        "$tilewright" tokenizer train --family $family --vocab-size 4096 --out tok/$family "${text[@]}" sotu-train
        "$tilewright" tokenize --tokenizer tok/$family --out shards/$family "${text[@]}" sotu-train
        "$tilewright" tokenize --tokenizer tok/$family --out shards/$family-eval "${text[@]}" sotu-eval
    done
    "$tilewright" tokenize --tokenizer tok/roberta --out shards/roberta-recent "${text[@]}" sotu-recent
    "$tilewright" tokenize --tokenizer "$minilm" --out shards/minilm "${text[@]}" sotu-recent/2009*
}
# once NAME COMMAND..: runs a command whose result is not there yet; logs/NAME.json receives its standard output.
once() {
    local name=$1 TIMEFORMAT="%U s of CPU"
    shift
    [ -e "runs/$name/done" ] && return
    rm -rf "runs/$name"
    if ! { time "$@" >"logs/$name.json" 2>"logs/$name.progress"; } 2>"logs/$name.err"; then
        cat "logs/$name.progress" >&2
        return 1
    fi
    touch "runs/$name/done"
}
# pretrain NAME RECIPE ARGUMENTS..
pretrain() {
    local name=$1 recipe=$2
    shift 2
    once "$name" "$tilewright" pretrain --recipe "$recipe" --config tiny --tokenizer "tok/$recipe" \
        --data "${data:-shards/$recipe}" --eval "shards/$recipe-eval" --out "runs/$name" --batch 16 --seq 128 --lr 2e-3 \
        --no-dropout --eval-batches 40 --threads 1 --json "$@"
}
# untrained NAME CONFIG TOKENIZER SHARDS: a checkpoint of random parameters.
untrained() {
    once "$1" "$tilewright" pretrain --recipe bert --config "$2" --tokenizer "$3" --data "$4" --out "runs/$1" --steps 1 \
        --lr 0 --batch 2 --threads 1 --json
}
# finetune NAME ARGUMENTS..
finetune() {
    local name=$1
    shift
    once "$name" "$tilewright" finetune --out "runs/$name" --batch 32 --threads 1 --json "$@"
}

[ -e shards/minilm ] || prepare
pretrain bert bert --steps 1200 --eval-every 200
pretrain electra electra --steps 900 --eval-every 150
pretrain gpt2 gpt2 --steps 1200 --eval-every 200
for recipe in t5 llama albert roberta bart; do pretrain $recipe $recipe --steps 200 --eval-every 50; done
for masking in static copies=10 dynamic; do
    data=shards/roberta-recent pretrain mask-$masking roberta --masking $masking --steps 300 --eval-every 100
done

movies=(--task classify --text-column sentence --eval data/movies-eval.tsv --max-length 64)
few=("${movies[@]}" --train data/movies-2000.tsv --epochs 1 --lr 1e-4)
for seed in 1 2 3; do
    finetune minilm-$seed --model "$minilm" "${few[@]}" --seed $seed
    if [ -n "${PYTHON:-}" ] && [ ! -e logs/peer-$seed.log ]; then
        "$PYTHON" "$here/benches/learn/transformers_classify.py" "$minilm" data/movies-2000.tsv data/movies-eval.tsv \
            $seed 1 1e-4 32 64 >logs/peer-$seed.log
    fi
done
sed 's/"BertModel"/"BertForPreTraining"/' "$minilm/config.json" >minilm-config.json
untrained minilm-scratch0 minilm-config.json "$minilm" shards/minilm
untrained bert-scratch0 tiny tok/bert shards/bert
finetune minilm-scratch --model runs/minilm-scratch0 "${few[@]}" --seed 1
for model in bert electra bert-scratch0; do
    finetune movies-$model --model runs/$model "${movies[@]}" --train data/movies-2000.tsv --epochs 6 --lr 5e-4 --seed 1
done
tag=(--task tag --train data/brown-5000.conll --eval data/brown-eval-5000.conll --max-length 128 --seed 1)
finetune brown-bert --model runs/bert "${tag[@]}" --epochs 6 --lr 2e-3
finetune brown-scratch --model runs/bert-scratch0 "${tag[@]}" --epochs 6 --lr 2e-3
finetune brown-minilm --model "$minilm" "${tag[@]}" --epochs 1 --lr 3e-4
for seed in 1 2; do
    [ -e logs/addition-$seed.log ] ||
        RAYON_NUM_THREADS=1 "$here/target/release/examples/addition" $seed >logs/addition-$seed.log
done
python3 "$here/benches/learn/tables.py" .
