#!/usr/bin/env bash
# The router on two GPUs, with a Qwen3-8B shape of random weights: strategies on the same two workers, one request at a time, at saturation
# and under Poisson arrivals of the mixed workload (half 64-256, half 1024-2048 tokens in; 128 out), with A/A runs between. The router starts
# from the committed profile of this GPU.
#   bench/gpu/router.sh FOLDER [PHASE...]      phases: sweep (as long as TIME_LIMIT allows), one (saturation of one GPU), profile
# The report is made by `twostroke bench report FOLDER/WORKLOAD --profile PROFILE`; here its plots may lack their packages. The servers stay up together, one is asked at a time.
# For other machines: NODE, MODEL (options of serve), ONE and TWO (workers), SHARE (of a GPU's memory, for each of three servers), PROFILE,
# PIN_SERVER and PIN_LOAD (commands that keep servers and generator on cores apart), TIME_LIMIT (seconds since this script began, for
# everything), TARGETS (some of the servers below), SWEEPS (workload:rates, ...; fractions of saturation, or requests per second with RATE_OPTION=rates), REPETITIONS, RUN_SECONDS and MIN_PROMPTS (of a run: what takes longer), WARMUP (seconds of
# a run before it is measured), SETTLE (seconds of a rate before its first run), PROMPTS, UNLOADED, COMMIT. CUDA_VISIBLE_DEVICES chooses among more GPUs.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$1
shift
NODE=${NODE:-node}
MAIN=${MAIN:-dist/src/cli/main.js}
MODEL=${MODEL:---model models/shape-qwen3-8b --load-format dummy --skip-tokenizer-init --max-model-len 8192}
ONE=${ONE:-any:cuda:0}
TWO=${TWO:-any:cuda:0,any:cuda:1}
SHARE=${SHARE:-0.3}
PROFILE=${PROFILE:-profiles/nvidia-h200-qwen3-4096x36-151936-bf16-kv-bf16.json}
PIN_SERVER=${PIN_SERVER-taskset -c 4-31}
PIN_LOAD=${PIN_LOAD-taskset -c 0-3}
TIME_LIMIT=${TIME_LIMIT:-1600}
REPETITIONS=${REPETITIONS:-10}
SWEEPS=${SWEEPS:-mixed:0.25,0.5,0.75,0.9,1,1.1,1.3}
RUN_SECONDS=${RUN_SECONDS:-4}
MIN_PROMPTS=${MIN_PROMPTS:-200}
WARMUP=${WARMUP:-1.5}
SETTLE=${SETTLE:-6}
PROMPTS=${PROMPTS:-350}
UNLOADED=${UNLOADED:-16}
RATE_OPTION=${RATE_OPTION:-rate-fractions}
TARGETS=${TARGETS:-collocated disaggregated adaptive}
declare -A options=(
  [collocated]='--strategy collocated'
  [disaggregated]='--strategy disaggregated --split 1:1'
  [adaptive]='--strategy adaptive'
  [adaptive-shed]='--strategy adaptive --on-overload shed'
  [collocated-shed]='--strategy collocated --on-overload shed'
  [disaggregated-shed]='--strategy disaggregated --split 1:1 --on-overload shed'
  [collocated-2048]='--strategy collocated --pacing off'
  [disaggregated-2048]='--strategy disaggregated --split 1:1 --pacing off'
)
mkdir -p "$folder"

say() { echo "=== $* (at $SECONDS s)" >&2; }
bench="$PIN_LOAD $NODE $MAIN bench"
serve="$PIN_SERVER $NODE $MAIN serve $MODEL --port 0 --json --allow-forced-length"
load="--force-output-length --random-output-len ${OUTPUT_LEN:-128} --output-shape range"

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
  kill "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}
declare -A servers=()
trap 'for server in "${servers[@]}"; do stopped $server; done' EXIT

for phase in "${@:-sweep}"; do
  say "$phase"
  case $phase in
    profile)
      $PIN_SERVER "$NODE" "$MAIN" profile ${MODEL/ --skip-tokenizer-init/} --workers "$TWO" --duration "${PROFILE_SECONDS:-30}" --out "$folder/profile.json" \
        | tee "$folder/profile.txt"
      PROFILE=$folder/profile.json
      ;;
    one) # everything on one GPU; as many requests open as its memory holds
      started one --workers "$ONE" --strategy collocated
      servers[one]=$server
      $bench serve --base-url "$url" --dataset-name mixed $load --num-prompts "$PROMPTS" --max-concurrency 128 --save-result \
        --result-dir "$folder" --result-filename saturation-one.json | grep -E 'throughput|p50|ms\)|[0-9]$'
      stopped $server
      unset 'servers[one]'
      ;;
    sweep)
      targets=()
      index=0
      for name in $TARGETS; do
        index=$((index + 1))
        # of the memory that may be in use then, by all servers
        started $name --workers "$TWO" --profile "$PROFILE" --max-queue 100000 ${options[$name]} \
          --gpu-memory-utilization "$(awk "BEGIN { print $SHARE * $index }")"
        servers[$name]=$server
        targets+=(--target "$name=$url")
        say "$name is up"
      done
      pointsLeft=$(tr -cd ':,' <<<"$SWEEPS" | wc -c)
      for each in $SWEEPS; do
        workload=${each%%:*} rates=${each#*:}
        points=$(tr -cd ':,' <<<"$each" | wc -c)
        limit=$(((TIME_LIMIT - SECONDS) * points / pointsLeft))
        pointsLeft=$((pointsLeft - points))
        say "$workload at $rates, for $limit s"
        $bench sweep --workloads "$workload" $load "--$RATE_OPTION" "$rates" --repetitions "$REPETITIONS" --run-seconds "$RUN_SECONDS" --min-prompts "$MIN_PROMPTS" \
          --warmup "$WARMUP" --settle "$SETTLE" --warmup-prompts 0 --unloaded-prompts "$UNLOADED" --saturation-prompts "$PROMPTS" --saturation-concurrency 256 --drain 20 \
          --time-limit "$limit" --result-dir "$folder/$workload" --metadata "commit=${COMMIT:-$(git rev-parse --short HEAD)}" \
          "gpu=$(nvidia-smi ${CUDA_VISIBLE_DEVICES:+-i "$CUDA_VISIBLE_DEVICES"} --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | sort | uniq -c | xargs)" \
          "command=bench/gpu/router.sh" \
          "${targets[@]}" >"$folder/$workload.txt" || say "no report here: see its last lines"
        cat "$folder/$workload.txt"
      done
      ;;
    *) echo "unknown phase: $phase" >&2 && exit 1 ;;
  esac
done
say end
