# Sourced by test/gpu/run.sh and bench/gpu/run.sh: sets NODE and ENGINE_MJS, bundling test/gpu/engine.ts unless that was done elsewhere.
NODE=${NODE:-node}
if [ -z "${ENGINE_MJS:-}" ]; then
  ENGINE_MJS=build/gpu/engine.mjs
  npx rolldown test/gpu/engine.ts --format esm --platform node --external koffi --file "$ENGINE_MJS" >/dev/null || exit 1
fi
