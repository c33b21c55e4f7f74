#!/usr/bin/env bash
# The router on two GPUs, with a Qwen3-8B shape of random weights: the profile, one request at a time, saturation of one and of two GPUs, and
# the three strategies under Poisson arrivals of the mixed workload (half 64-256, half 1024-2048 tokens in; 128 out).
#   bench/gpu/router.sh FOLDER PHASE...      phases: profile one static sweep (all: about five minutes on two H200s)
# The sweep's report is made again from FOLDER by `twostroke bench report FOLDER/sweep --profile FOLDER/profile.json`.
# For other machines: NODE, MODEL (options of serve), ONE and TWO (workers), SHARE (of a GPU's memory, for each of three servers at once),
# PIN_SERVER and PIN_LOAD (commands that keep server and generator on cores apart), REPETITIONS, RATES, SECONDS_A_RUN, PROMPTS.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$1
shift
NODE=${NODE:-node}
MAIN=${MAIN:-$PWD/dist/src/cli/main.js}
MODEL=${MODEL:---model $PWD/models/shape-qwen3-8b --load-format dummy --skip-tokenizer-init --max-model-len 8192}
ONE=${ONE:-any:cuda:0}
TWO=${TWO:-any:cuda:0,any:cuda:1}
SHARE=${SHARE:-0.3}
PIN_SERVER=${PIN_SERVER:-taskset -c 4-31}
PIN_LOAD=${PIN_LOAD:-taskset -c 0-3}
REPETITIONS=${REPETITIONS:-5}
RATES=${RATES:-0.4,0.7,0.95}
SECONDS_A_RUN=${SECONDS_A_RUN:-3}
PROMPTS=${PROMPTS:-600}
mkdir -p "$folder"

say() { echo "=== $* (at $SECONDS s)" >&2; }
bench="$PIN_LOAD $NODE $MAIN bench"
serve="$PIN_SERVER $NODE $MAIN serve $MODEL --port 0 --json --allow-forced-length --log-level error"
load="--force-output-length --random-output-len 128 --output-shape range"
[ -f "$folder/profile.json" ] && profile="--profile $folder/profile.json" || profile=

# started NAME OPTIONS...: a server in the background; its address in $url, its process in $server
started() {
  local log=$folder/serve-$1.log
  shift
  $serve "$@" >"$log" 2>&1 &
  server=$!
  for _ in $(seq 600); do
    url=$(grep -o '"url":"[^"]*"' "$log" | head -1 | cut -d'"' -f4) && [ -n "$url" ] && return
    kill -0 $server 2>/dev/null || break
    sleep 0.2
  done
  cat "$log" >&2
  return 1
}
stopped() {
  kill "$1"
  wait "$1" 2>/dev/null || true
}
# three: a server for each strategy, on the same GPUs; they stay up, and one is asked at a time
declare -A urls=() servers=()
three() {
  [ ${#urls[@]} -gt 0 ] && return
  local strategy index=0 share
  for strategy in collocated disaggregated adaptive; do
    index=$((index + 1))
    share=$(awk "BEGIN { print $SHARE * $index }") # of the memory that may be in use then, by all
    started $strategy --workers "$TWO" --gpu-memory-utilization "$share" --strategy $strategy \
      $([ $strategy = disaggregated ] && echo --split 1:1) $([ $strategy = adaptive ] && echo "$profile")
    urls[$strategy]=$url
    servers[$strategy]=$server
  done
  say "three servers"
}
trap 'for server in "${servers[@]}"; do stopped $server; done' EXIT

for phase in "$@"; do
  say "$phase"
  case $phase in
    profile)
      workers=${MODEL/ --skip-tokenizer-init/}
      $PIN_SERVER "$NODE" "$MAIN" profile $workers --workers "$TWO" --duration "${PROFILE_SECONDS:-30}" --out "$folder/profile.json" >"$folder/profile.txt"
      cat "$folder/profile.txt"
      profile="--profile $folder/profile.json"
      ;;
    one) # one GPU, everything on it; as many requests open as its memory holds
      started one --workers "$ONE" --strategy collocated
      servers[one]=$server
      $bench serve --base-url "$url" --dataset-name mixed $load --num-prompts "$PROMPTS" --max-concurrency 128 --save-result \
        --result-dir "$folder" --result-filename saturation-one.json | grep -E 'throughput|p50|ms\)|[0-9]$'
      stopped $server
      unset 'servers[one]'
      ;;
    static) # one request at a time, as in nanoPD's static benchmark
      three
      for strategy in "${!urls[@]}"; do
        for length in short long; do
          echo "$strategy $length"
          $bench static --base-url "${urls[$strategy]}" --dataset-name $length $load --num-prompts "${STATIC_PROMPTS:-10}" --save-result \
            --result-dir "$folder" --result-filename "static-$length-$strategy.json" | grep -A1 -E '^(Time to first|Time per|End-to-end)'
        done
      done
      ;;
    sweep)
      three
      $bench sweep --workloads mixed $load --rate-fractions "$RATES" --repetitions "$REPETITIONS" --run-seconds "$SECONDS_A_RUN" \
        --warmup-prompts 8 --unloaded-prompts 12 --saturation-prompts "$PROMPTS" --saturation-concurrency 256 --drain 20 --no-twin \
        --result-dir "$folder/sweep" $(for name in collocated disaggregated adaptive; do echo "--target $name=${urls[$name]}"; done) \
        $profile >"$folder/sweep.txt" || cat "$folder/sweep.txt"
      ;;
    *) echo "unknown phase: $phase" >&2 && exit 1 ;;
  esac
done
say end
