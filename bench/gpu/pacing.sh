#!/usr/bin/env bash
# Paced steps on one GPU against steps of a fixed budget, with a Qwen3-8B shape of random weights and Poisson arrivals of one workload. The servers
# stay up together and are asked in turn, with the same arrivals; each is sent the SLOs that the sweep has measured.
#   bench/gpu/pacing.sh FOLDER WORKLOAD RATES [TIME_LIMIT_SECONDS]      as in bench/gpu/pacing.sh out mixed 16,26,32,48 400
# For other machines: NODE, MODEL (options of serve), WORKERS, TARGETS (some of the servers), SHARE (of the GPU's memory, for each server), PROFILE, PIN_SERVER and PIN_LOAD (commands that
# keep servers and generator on cores apart), REPETITIONS, RUN_SECONDS, COMMIT.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$1 workload=$2 rates=$3 limit=${4:-400}
NODE=${NODE:-node}
MAIN=${MAIN:-dist/src/cli/main.js}
MODEL=${MODEL:---model models/shape-qwen3-8b --load-format dummy --skip-tokenizer-init --max-model-len 8192}
SHARE=${SHARE:-0.19}
PROFILE=${PROFILE:-profiles/nvidia-h200-qwen3-4096x36-151936-bf16-kv-bf16.json}
PIN_SERVER=${PIN_SERVER-taskset -c 2-15}
PIN_LOAD=${PIN_LOAD-taskset -c 0-1}
mkdir -p "$folder"
declare -A options=(
  [paced]='--on-overload late'
  [paced-shed]='--on-overload shed'
  [budget-2048]='--pacing off --max-num-batched-tokens 2048'
  [budget-512]='--pacing off --max-num-batched-tokens 512 --prefill-chunk 512'
  [budget-256]='--pacing off --max-num-batched-tokens 256 --prefill-chunk 256'
)
servers=()
targets=()
trap 'for server in "${servers[@]}"; do kill "$server" 2>/dev/null || true; done' EXIT
for name in ${TARGETS:-paced paced-shed budget-2048 budget-512 budget-256}; do
  log=$folder/serve-$name.log
  share=$(awk "BEGIN { print $SHARE * (${#servers[@]} + 1) }") # of the memory that may be in use then, by all servers
  # shellcheck disable=SC2086
  $PIN_SERVER "$NODE" "$MAIN" serve $MODEL --port 0 --json --allow-forced-length --workers "${WORKERS:-any:cuda:0}" --strategy collocated --profile "$PROFILE" \
    --gpu-memory-utilization "$share" --max-queue 100000 ${options[$name]} >"$log" 2>&1 &
  servers+=($!)
  url=
  for _ in $(seq 600); do
    url=$(grep -o '"url":"[^"]*"' "$log" | head -1 | cut -d'"' -f4) && [ -n "$url" ] && break
    sleep 0.2
  done
  [ -n "$url" ] || { cat "$log" >&2; exit 1; }
  targets+=(--target "$name=$url")
  echo "$name is up after $SECONDS s" >&2
done
$PIN_LOAD "$NODE" "$MAIN" bench sweep --candidate paced --workloads "$workload" --force-output-length --random-output-len 128 --output-shape range \
  --rates "$rates" --repetitions "${REPETITIONS:-3}" --run-seconds "${RUN_SECONDS:-4}" --min-prompts 40 --num-prompts 400 --warmup 1 --settle 3 \
  --warmup-prompts 0 --unloaded-prompts 12 --saturation-prompts 96 --saturation-concurrency 96 --drain 15 --no-twin --time-limit "$limit" \
  --result-dir "$folder/$workload" --metadata "commit=${COMMIT:-$(git rev-parse --short HEAD)}" \
  "gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | sort | uniq -c | xargs)" "command=bench/gpu/pacing.sh $workload $rates" \
  "${targets[@]}" | tee "$folder/$workload.txt"
