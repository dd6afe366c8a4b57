#!/usr/bin/env bash
# Gathers what building and testing the CUDA device needs beside nvcc into .cuda/: the headers of cuBLASLt, NVRTC
# and NCCL, and NVRTC itself. They come from the Python packages of those names: installed ones where there are such
# (as beside PyTorch), else downloaded ones.
#
#   scripts/gpu/headers.sh [FOLDER]     FOLDER: .cuda of the repository unless said
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${1:-.cuda}
if [[ -f $target/include/nccl.h && -f $target/include/cublasLt.h && -e $target/lib/libnvrtc.so.13 ]]; then
  echo "headers: $target is there"
  exit
fi
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Prints the folder "nvidia" of installed packages, if all three are there.
installed() {
  "$python" - <<'EOF'
import glob, os, site, sys
for place in [*sys.path, *site.getsitepackages(), site.getusersitepackages()]:
    root = os.path.join(place, "nvidia")
    has = lambda name: glob.glob(os.path.join(root, "*", "include", name))
    if all(map(has, ["cublasLt.h", "nvrtc.h", "nccl.h"])):
        print(root)
        break
EOF
}

root=$(installed 2>/dev/null || true)
if [[ -z $root ]]; then
  # The toolkit's own major version: NVRTC and cuBLAS of another one have other names.
  "$python" -m pip download --quiet --retries 0 --no-deps --dest "$work" \
    'nvidia-cublas>=13,<14' 'nvidia-cuda-nvrtc>=13,<14' nvidia-nccl-cu13
  for wheel in "$work"/*.whl; do
    "$python" - "$wheel" "$work" <<'EOF'
import sys, zipfile
wheel, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    wanted = [n for n in archive.namelist() if "/include/" in n or ("/lib/libnvrtc" in n and ".alt." not in n)]
    archive.extractall(folder, wanted)
EOF
  done
  root=$work/nvidia
fi

mkdir -p "$target/include" "$target/lib"
cp -r "$root"/*/include/. "$target/include/"
for library in "$root"/*/lib/libnvrtc*; do
  [[ $library == *.alt.* ]] || cp "$library" "$target/lib/"
done
echo "headers: $target, $(du -sh "$target" | cut -f1)"
