#!/usr/bin/env bash
# Builds the CUDA device on a bare GPU machine (nvcc, CMake, a Python with PyTorch; no Node, no network), tests it and
# measures it against PyTorch, within 10 minutes. Rows are printed as they are known, and all of them last, also when the
# time is over. What it needs besides lies in .gpu/ (scripts/gpu/pack.mjs, run where there is a network). Full logs go to
# $OUT, or to runs/gpu.
#
#   scripts/gpu/check.sh [build] [tests] [bench]     all of them unless some are named
#
#   LAZULI_CHECK_SECONDS   what all of it may take; 560
#   LAZULI_CUDA_PATH       libraries that come before the machine's
#   LAZULI_REHEARSE=1      small sizes, for a GPU that is emulated
#   LAZULI_BUILD_SECONDS   what compiling may take; 190
set -uo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
logs=${OUT:-$root/runs/gpu}
build=$root/build-gpu
mkdir -p "$logs" "$build"
parts=" ${*:-build tests bench} "
python=${PYTHON:-python3}
limit=${LAZULI_CHECK_SECONDS:-560}
rehearse=${LAZULI_REHEARSE:-}
cores=$(nproc)
table=$logs/table.txt
: >"$table"
row() { printf '%-36s %s\n' "$1" "$2" | tee -a "$table"; }
wanted() { [[ $parts == *" $1 "* ]]; }

finish() {
  trap - EXIT TERM INT
  local running
  running=$(jobs -p)
  [[ -z $running ]] || kill $running 2>/dev/null
  printf '\n== after %s s\n' "$SECONDS"
  cat "$table"
  exit "${1:-0}"
}
trap 'finish $?' EXIT
trap 'row "stopped" "by a signal after $SECONDS s"; finish 124' TERM INT

# Runs a command for so many seconds at most, and not past the end of all. In the background and waited for: a signal to this
# script is answered at once.
within() {
  local most=$1 left=$((limit - SECONDS))
  shift
  ((most < left)) || most=$left
  ((most > 0)) || return 124
  timeout -k 5 "$most" "$@" &
  wait $!
}

# Runs a function beside this script; a signal to it reaches what it started.
beside() {
  (
    trap 'kill $(jobs -p) 2>/dev/null; exit 124' TERM
    "$@"
  ) &
}

if command -v xz >/dev/null; then xz -dc .gpu/node.xz >"$build/node"; else
  "$python" -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(".gpu/node.xz"), open(sys.argv[1], "wb"))' "$build/node"
fi
chmod +x "$build/node"
node=$build/node
mkdir -p packages/cuda-backend/native/generated
cp .gpu/generated/* packages/cuda-backend/native/generated/

# The libraries that are opened at run time lie in PyTorch's packages.
libraries=$("$python" - <<'PLACES'
import glob, os, sys
for place in sys.path:
    for folder in sorted(glob.glob(os.path.join(place, "nvidia", "*", "lib"))):
        print(folder, end=":")
PLACES
)
export LAZULI_CUDA_PATH=${LAZULI_CUDA_PATH:+$LAZULI_CUDA_PATH:}$libraries
export LAZULI_ADDON=$build/Release/lazuli.node LAZULI_CACHE_DIR=$build/cache
# The architectures of one source are compiled side by side: the longest of them is what the build waits for.
export NVCC_APPEND_FLAGS=--threads=3
export LAZULI_DEVICE=cuda LAZULI_TRAIN_SCRIPT=$root/.gpu/js/train.mjs TORCHINDUCTOR_CACHE_DIR=$build/inductor
row "GPU" "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -1)"

# While this machine's processors compile, PyTorch compiles too: what it is measured with then comes from its cache.
warm() {
  local config
  for config in $([[ -n $rehearse ]] && echo tiny || echo 110m 1b); do
    within 200 "$python" .gpu/peers/torch_llama.py --config "$config" --dtype bfloat16 \
      --compile --steps 1 --warmup 1
  done >"$logs/warm.log" 2>&1
}
warming=
if wanted bench && [[ -f .gpu/peers/torch_llama.py ]]; then
  beside warm
  warming=$!
fi

native_tests() {
  within "${LAZULI_BUILD_SECONDS:-120}" cmake --build "$build" --parallel "$cores" --target lazuli_native_test >>"$logs/build.log" 2>&1 ||
    { row "native tests" "did not build, see build.log"; return; }
  local shards=4 i running=()
  for ((i = 0; i < shards; i++)); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i LAZULI_TEST_DEVICE=cuda \
      timeout -k 5 "$(($1 - SECONDS > 1 ? $1 - SECONDS : 1))" "$build/lazuli_native_test" --gtest_brief=1 \
      ${rehearse:+--gtest_filter=Softmax.*:Cumsum.*} >"$logs/native-$i.log" 2>&1 &
    running+=($!)
  done
  local ended=0
  for i in "${running[@]}"; do wait "$i"; [[ $? -le 1 ]] && ((ended++)); done
  count() { cat "$logs"/native-?.log | sed -nE "s/^\[  $1  \] ([0-9]+) tests?[.,].*/\1/p" | awk '{ sum += $1 } END { print sum + 0 }'; }
  row "native tests" "$(count PASSED) passed, $(count FAILED) failed$([[ $ended -eq $shards ]] || echo ", $((shards - ended)) of $shards processes died or ran out of time")"
  cat "$logs"/native-?.log | grep -E '^\[  FAILED  \] [A-Z]' | sort -u | head -20
}

# Runs a bundled test file until a time, with so many processes.
test_file() {
  within 400 "$node" scripts/gpu/tests.mjs ".gpu/js/$2.mjs" --processes "$4" --seconds "$(($3 - SECONDS))" \
    >"$logs/$2.log" 2>&1
  row "$1" "$(tail -n 1 "$logs/$2.log")"
  grep '^left out' "$logs/$2.log"
  grep -A1 '^FAILED' "$logs/$2.log" | head -40
}

if wanted build; then
  start=$SECONDS
  generator=$(command -v ninja >/dev/null && echo Ninja || echo "Unix Makefiles")
  headers=$root/.cuda
  {
    if [[ -d .gpu/cuda ]]; then headers=$root/.gpu/cuda; else within 30 scripts/gpu/headers.sh; fi
    within 60 cmake -S . -B "$build" -G "$generator" -DCMAKE_BUILD_TYPE=Release -DLAZULI_CUDA=ON \
      -DLAZULI_CUDA_HEADERS="$headers" \
      -DCMAKE_JS_INC="$root/.gpu/include" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$build/Release" \
      -DLAZULI_TESTS="$([[ -d .gpu/gtest ]] && echo ON || echo OFF)" -DLAZULI_GTEST_SOURCE="$root/.gpu/gtest" &&
      within "${LAZULI_BUILD_SECONDS:-190}" cmake --build "$build" --parallel "$cores"
  } >"$logs/build.log" 2>&1
  code=$?
  row "build" "$([[ $code -eq 0 ]] && echo ok || echo "FAILED ($code), see build.log"), $((SECONDS - start)) s"
  [[ $code -eq 0 ]] || { tail -40 "$logs/build.log"; exit 1; }
fi

if wanted tests; then
  # Together on the one GPU; the measurements come when nothing else runs.
  until=$((SECONDS + 150))
  keep=$((limit - 210))
  if wanted bench && ((until > keep)); then until=$keep; fi
  ((until > SECONDS + 20)) || until=$((SECONDS + 20))
  running=()
  if [[ -d .gpu/gtest ]]; then
    beside native_tests "$until"
    running+=($!)
  fi
  beside test_file "trajectories (1e-4, 1e-2)" trajectories "$until" "$((cores > 4 ? 3 : 1))"
  running+=($!)
  beside test_file "conformance" conformance "$until" "$((cores > 8 ? cores - 6 : 1))"
  running+=($!)
  wait "${running[@]}"
fi

if [[ -n $warming ]]; then
  kill "$warming" 2>/dev/null && wait "$warming" 2>/dev/null
fi
if wanted bench; then
  within 400 "$python" scripts/gpu/bench.py --node "$node" --logs "$logs" --table "$table" \
    --seconds "$((limit - SECONDS - 3))" ${rehearse:+--rehearse}
fi
