#!/usr/bin/env bash
# The GPU benchmark in one run: bandwidths, kernels, steps, the product floor, the engine. Writes docs/results/<date>-gpu/.
# Needs what test/gpu/run.sh needs.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OUT=${OUT:-build/gpu/out}
mkdir -p "$OUT"
python3 bench/gpu/kernels.py && mv "$OUT/kernels.json" "$OUT/kernels-all.json"
PD_LINEAR=blas python3 bench/gpu/kernels.py floor && mv "$OUT/kernels.json" "$OUT/floor.json"
npx rolldown test/gpu/engine.ts --format esm --platform node --external koffi --file build/gpu/engine.mjs >/dev/null
node build/gpu/engine.mjs bench
python3 bench/gpu/report.py "$OUT/kernels-all.json" "$OUT/floor.json" "$OUT/engine.json" "$(git rev-parse --short HEAD)" "docs/results/$(date +%F)-gpu"
