#!/usr/bin/env bash
# The GPU benchmark in one run: bandwidths, kernels, steps, the product floor, the engine, loading. Writes docs/results/<date>-gpu/ (TARGET=… elsewhere).
#   bench/gpu/run.sh            about four minutes on an H200
# Needs what test/gpu/run.sh needs, and 16 GB in /dev/shm (BENCH_MODEL_FOLDER=… elsewhere) for the loading row, which is left out without them.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OUT=${OUT:-$PWD/build/gpu/out}
mkdir -p "$OUT"
# said here, rather than by every part in its own log
python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL("libcuda.so.1").cuInit(0))' 2>/dev/null || {
  echo "no NVIDIA GPU can be used here: its driver (libcuda.so.1) is missing or finds none" >&2
  exit 1
}
. test/gpu/bundle.sh
folder=${BENCH_MODEL_FOLDER:-/dev/shm/twostroke-bench-8b}
made= # only what was made here is removed
if [ ! -e "$folder" ]; then
  made=$folder
  trap '[ -z "$made" ] || rm -rf "$made"' EXIT
  "$NODE" scripts/make-bench-model.mjs --out "$folder" --shape 8b || rm -rf "$made"
fi
[ -f "$folder/model.safetensors" ] && export TWOSTROKE_BENCH_MODEL=$folder
"$NODE" "$ENGINE_MJS" loading && mv "$OUT/engine.json" "$OUT/loading.json"
[ -z "$made" ] || rm -rf "$made"
python3 bench/gpu/kernels.py read decode decode_fp8 prefill prefill_fp8 sample small step fp8 && mv "$OUT/kernels.json" "$OUT/kernels-all.json"
PD_LINEAR=blas python3 bench/gpu/kernels.py floor && mv "$OUT/kernels.json" "$OUT/floor.json"
"$NODE" "$ENGINE_MJS" bench bench-fp8 bench-invariant
python3 bench/gpu/report.py "$OUT" "${COMMIT:-$(git rev-parse --short HEAD)}" "${TARGET:-docs/results/$(date +%F)-gpu}"
