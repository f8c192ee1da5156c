#!/usr/bin/env bash
# Renews the copy of ONNX Runtime Web that pages are made with:
#
#     ros2_ws/src/dipole_runtime/renew_onnxruntime_web.sh [VERSION]
#
# Needs npm, and for the licence and the notices a PYTHON that has onnxruntime. Without VERSION it takes the newest.
# Then run tests/runtime/test_runtime_page.py, which compares the browser with the runtime.
set -euo pipefail
version="${1:-latest}"
web="$(cd "$(dirname "$0")" && pwd)/dipole_runtime/web"
licences="$("${PYTHON:-python3}" -c 'import importlib.util as u; print(u.find_spec("onnxruntime").submodule_search_locations[0])')"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

# The build without WebGPU and WebNN: its API, the loader of its binary, and the binary.
declare -A files=(
  [onnxruntime-web.mjs]=ort.wasm.min.mjs
  [onnxruntime-web-loader.mjs]=ort-wasm-simd-threaded.mjs
  [onnxruntime-web.wasm]=ort-wasm-simd-threaded.wasm
)
npm pack --silent "onnxruntime-web@$version" >/dev/null
tar -xzf onnxruntime-web-*.tgz package/package.json "${files[@]/#/package/dist/}"
version="$(sed -n 's/^ *"version": "\(.*\)".*/\1/p' package/package.json | head -n 1)"
for name in "${!files[@]}"; do
  gzip -n -9 -c "package/dist/${files[$name]}" >"$web/$name.gz"
done

{
  echo "ONNX Runtime Web $version (npm package onnxruntime-web)"
  echo
  (cd package/dist && sha256sum ort*)
  echo
  tr -d '\r' <"$licences/LICENSE"
} >"$web/onnxruntime-web.txt"
{
  cat "$web/onnxruntime-web.txt"
  echo
  tr -d '\r' <"$licences/ThirdPartyNotices.txt"
} | gzip -n -9 >"$web/onnxruntime-web.notices.txt.gz"
ls -l "$web"/onnxruntime-web*
