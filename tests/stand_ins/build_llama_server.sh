#!/usr/bin/env bash
# Build llama.cpp's server from the sources in llama-cpp-python's package:
#   build_llama_server.sh PIP DIRECTORY
# Needs cmake and a C++ compiler. Takes ten minutes on two cores.
set -euo pipefail
pip=$1 directory=$2

mkdir -p "$directory/source"
$pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$directory" llama-cpp-python
tar xzf "$directory"/llama_cpp_python-*.tar.gz -C "$directory/source" --strip-components=1
cmake -S "$directory/source/vendor/llama.cpp" -B "$directory/build" \
  -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF \
  -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
cmake --build "$directory/build" --target llama-server --parallel "$(nproc)"
echo "export EMBEDFLEET_TEST_LLAMA_SERVER=$(realpath "$directory/build/bin/llama-server")"
