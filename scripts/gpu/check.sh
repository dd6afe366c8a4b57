#!/usr/bin/env bash
# Builds the CUDA device on a bare GPU machine (nvcc, CMake, a Python with PyTorch; no Node, no network), tests it and
# measures it against PyTorch, within 10 minutes. A short table comes last. What it needs besides lies in .gpu/
# (scripts/gpu/pack.mjs, run where there is a network). Full logs go to $OUT, or to runs/gpu.
#
#   scripts/gpu/check.sh [build] [native] [conformance] [trajectories] [bench]     all of them unless some are named
set -uo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
logs=${OUT:-$root/runs/gpu}
build=$root/build-gpu
mkdir -p "$logs" "$build"
parts=" ${*:-build native conformance trajectories bench} "
python=${PYTHON:-python3}
table=()
row() { table+=("$(printf '%-34s %s' "$1" "$2")"); echo "== $1: $2"; }
wanted() { [[ $parts == *" $1 "* ]]; }
last() { tail -n 1 "$1" 2>/dev/null; }

if command -v xz >/dev/null; then xz -dc .gpu/node.xz >"$build/node"; else
  "$python" -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(".gpu/node.xz"), open(sys.argv[1], "wb"))' "$build/node"
fi
chmod +x "$build/node"
node=$build/node

# The libraries that are opened at run time lie in PyTorch's packages.
libraries=$("$python" - <<'EOF'
import glob, os, sys
for place in sys.path:
    for folder in sorted(glob.glob(os.path.join(place, "nvidia", "*", "lib"))):
        print(folder, end=":")
EOF
)
export LAZULI_CUDA_PATH=$libraries LAZULI_ADDON=$build/Release/lazuli.node LAZULI_CACHE_DIR=$build/cache
export LAZULI_TRAIN_SCRIPT=$root/.gpu/js/train.mjs
row "GPU" "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -1)"

if wanted build; then
  start=$SECONDS
  {
    scripts/gpu/headers.sh &&
      cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DLAZULI_CUDA=ON \
        -DCMAKE_JS_INC="$root/.gpu/include" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$build/Release" \
        -DLAZULI_TESTS="$([[ -d .gpu/gtest ]] && echo ON || echo OFF)" -DLAZULI_GTEST_SOURCE="$root/.gpu/gtest" &&
      cmake --build "$build" --parallel "$(nproc)" &&
      { [[ ! -d .gpu/gtest ]] || cmake --build "$build" --parallel "$(nproc)" --target lazuli_native_test; }
  } >"$logs/build.log" 2>&1
  code=$?
  row "build" "$([[ $code -eq 0 ]] && echo ok || echo "FAILED, see build.log"), $((SECONDS - start)) s"
  [[ $code -eq 0 ]] || { tail -40 "$logs/build.log"; exit 1; }
fi

if wanted native && [[ -x $build/lazuli_native_test ]]; then
  LAZULI_TEST_DEVICE=cuda timeout 150 "$build/lazuli_native_test" --gtest_brief=1 >"$logs/native.log" 2>&1
  row "native tests" "$(grep -E '^\[  (PASSED|FAILED)  \]' "$logs/native.log" | head -1 | tr -s ' ')"
  grep -E '^\[  FAILED  \] [A-Z]' "$logs/native.log" | sort -u | head -20
fi

if wanted conformance; then
  timeout 240 "$node" .gpu/js/conformance.mjs >"$logs/conformance.log" 2>&1
  row "conformance" "$(last "$logs/conformance.log")"
  grep -A1 '^FAILED' "$logs/conformance.log" | head -40
fi

if wanted trajectories; then
  LAZULI_DEVICE=cuda timeout 150 "$node" .gpu/js/trajectories.mjs >"$logs/trajectories.log" 2>&1
  row "trajectories (1e-4, 1e-2)" "$(last "$logs/trajectories.log")"
  grep -A1 '^FAILED' "$logs/trajectories.log" | head -20
fi

# A figure of a line of JSON.
figure() { "$python" -c 'import json, sys; print(json.loads(sys.stdin.read().strip().splitlines()[-1]).get(sys.argv[1], "none"))' "$1" 2>/dev/null; }
bench() { LAZULI_DEVICE=cuda timeout 120 "$node" .gpu/js/bench.mjs "$@" --json 2>>"$logs/bench.log" | tee -a "$logs/bench.jsonl"; }
peer() { timeout 150 "$python" .gpu/peers/torch_llama.py "$@" 2>>"$logs/peers.log" | tee -a "$logs/peers.jsonl"; }

if wanted bench; then
  for config in 110m 1b; do
    ours=$(bench train --config "$config" --dtype bfloat16 --steps 20 --warmup 5)
    theirs=$([[ -f .gpu/peers/torch_llama.py ]] && peer --config "$config" --dtype bfloat16 --compile --steps 20 --warmup 5)
    row "$config bfloat16, ms a step" \
      "$(figure step_ms <<<"$ours"); torch.compile $(figure step_ms <<<"$theirs"); losses $(figure losses <<<"$ours") and $(figure losses <<<"$theirs")"
  done
  ours=$(bench attention --batch 4 --heads 16 --seq 4096 --head-dim 128 --dtype bfloat16)
  row "attention T=4096 D=128, TFLOP/s" "forward $(figure forward_gflops <<<"$ours")e-3, both $(figure forward_backward_gflops <<<"$ours")e-3"
  row "SDPA, the same" "$("$python" scripts/gpu/peers.py attention 2>>"$logs/peers.log")"
  row "silu(x)*y+x 16M float32, GB/s" "$(bench fusion | figure gb_per_s)"
  row "copy, GB/s" "$("$python" scripts/gpu/peers.py copy 2>>"$logs/peers.log")"
  row "host time of a replayed step, us" "$(bench replay --config 15m | figure host_us)"
fi

echo
printf '%s\n' "${table[@]}"
