#!/usr/bin/env bash
# Put together what QEMU runs as a 64-bit Arm machine: Debian's Python and our dependencies for it.
#   arm_user_space.sh PIP DIRECTORY
# Takes apt with Debian's sources, and touches nothing of the machine's own packages: they are only
# unpacked into DIRECTORY. About 95 MB come over the network, and 360 MB stay.
set -euo pipefail
pip=$1 directory=$(realpath --canonicalize-missing "$2")

rm -rf "$directory"
mkdir -p "$directory"/{apt/lists/partial,cache/archives/partial,root,site}
touch "$directory/apt/status" # as if nothing were installed: all that Python needs comes along
options=(
  -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=root
  -o Dir::State="$directory/apt" -o Dir::State::status="$directory/apt/status"
  -o Dir::Cache="$directory/cache" -o Acquire::Languages=none
)
apt-get "${options[@]}" update
apt-get "${options[@]}" install --download-only --yes --no-install-recommends python3 libstdc++6
for package in "$directory"/cache/archives/*.deb; do
  dpkg-deb --extract "$package" "$directory/root"
done
rm -rf "$directory/apt" "$directory/cache"

version=$(readlink "$directory/root/usr/bin/python3")
platforms=()
for libc in 17 27 28 31 34 35 36; do
  platforms+=(--platform "manylinux_2_${libc}_aarch64")
done
$pip install --quiet --no-deps --only-binary=:all: --target "$directory/site" \
  --implementation cp --python-version "${version#python}" --platform manylinux2014_aarch64 \
  "${platforms[@]}" --requirement requirements/runtime.txt
# A compiler for Arm, unless Debian's is here: it compiles the kernels when tests run.
command -v aarch64-linux-gnu-gcc >/dev/null || $pip install --quiet --target "$directory/zig" ziglang
touch "$directory/.complete"
