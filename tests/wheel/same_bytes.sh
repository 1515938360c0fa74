#!/usr/bin/env bash
# Installs a wheel under several Pythons, where no compiler is on the path, and compiles the digits
# network with each: all must write the same bytes.
#
#   bash tests/wheel/same_bytes.sh dist/WHEEL python3.10 python3.11 python3.12 python3.13
set -euo pipefail
wheel=$(realpath "$1")
models=$(realpath "$(dirname "$0")/../../models")
shift
# The newest that all of them have.
packages=(numpy==2.2.6 onnx==1.23.2 onnxruntime==1.23.2)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for python in "$@"; do
  "$python" -m venv "venv-$python"
  PATH="$folder/venv-$python/bin" CXX=/none python -m pip install --quiet "$wheel" "${packages[@]}"
  PATH="$folder/venv-$python/bin" python -W error -m snn_compile "$models/digits_resnet_dynamo.onnx" \
    --calibration "$models/digits_calibration.npz" -o "$python.onnx" > "$python.txt"
  sha256sum "$python.onnx"
done
[ "$(sha256sum -- *.onnx | cut -d' ' -f1 | sort -u | wc -l)" = 1 ] || { echo "they differ"; exit 1; }
