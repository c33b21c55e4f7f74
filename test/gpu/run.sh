#!/usr/bin/env bash
# The GPU's tests: op parity (needs Python with torch), with and without the sm_90a kernels, then the real engine's goldens and hand-over.
#   test/gpu/run.sh             about a minute on an H100
#   test/gpu/run.sh sanitize    compute-sanitizer memcheck and racecheck over the ops at small shapes
# Needs build/cuda and build/cpu (npm run build && npm run build:cuda). Prints one table a part; the exit code is not 0 when anything failed.
set -uo pipefail
cd "$(dirname "$0")/../.."
status=0
if [ "${1:-}" = sanitize ]; then
  for tool in memcheck racecheck; do
    PD_SMALL=1 compute-sanitizer --tool "$tool" --error-exitcode 9 python3 test/gpu/parity.py || status=1
  done
  exit $status
fi
python3 test/gpu/parity.py || status=1
PD_NO_WGMMA=1 python3 test/gpu/parity.py linear attention || status=1
npx rolldown test/gpu/engine.ts --format esm --platform node --external koffi --file build/gpu/engine.mjs >/dev/null || exit 1
node build/gpu/engine.mjs goldens teacher handover || status=1
exit $status
