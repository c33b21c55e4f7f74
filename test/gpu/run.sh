#!/usr/bin/env bash
# The GPU's tests: op parity with and without the sm_90a kernels, the real engine's goldens, hand-over, batch invariance
# and models that compute NaN. One table at the end.
#   test/gpu/run.sh             about half a minute on an H200
#   test/gpu/run.sh sanitize    compute-sanitizer memcheck and racecheck over the ops at small shapes, about two minutes
# Needs build/cuda and build/cpu (npm run build && npm run build:cuda), python3 with torch, and node (NODE=…, where it is not on the PATH).
# ENGINE_MJS=… takes an engine that is bundled already, for machines without the package's development dependencies.
# Logs go to $OUT (build/gpu/out). The exit code is not 0 when anything failed.
set -uo pipefail
cd "$(dirname "$0")/../.."
export OUT=${OUT:-$PWD/build/gpu/out}
mkdir -p "$OUT"
# said here, rather than by every part in its own log
python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL("libcuda.so.1").cuInit(0))' 2>/dev/null || {
  echo "no NVIDIA GPU can be used here: its driver (libcuda.so.1) is missing or finds none" >&2
  exit 1
}
if [ "${1:-}" = sanitize ]; then exec python3 test/gpu/sanitize.py; fi
. test/gpu/bundle.sh
part() { # NAME COMMAND…: its files and its log have a folder of their own
  local folder=$OUT/$1
  rm -rf "$folder" && mkdir -p "$folder"
  OUT=$folder "${@:2}" >"$folder/log" 2>&1 || true # the table tells
}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-5} # the references are computed by three processes side by side
part parity python3 test/gpu/parity.py &
PD_NO_WGMMA=1 part parity-mma python3 test/gpu/parity.py linear quantised invariant attention not_finite &
part engine "$NODE" "$ENGINE_MJS" goldens teacher handover invariance nan &
wait
python3 test/gpu/table.py "parity=$OUT/parity/parity.json" "mma.sync=$OUT/parity-mma/parity.json" "engine=$OUT/engine/engine.json"
