#!/usr/bin/env bash
# prepare.sh [NAME ...]: wheels for a machine that can fetch nothing, into .data/gpu-wheels; needs uv and a network.
#
# Our packages and apps, and what the machine's Python lacks, at the versions that pyproject.toml pins; NAMEs are further
# packages. GPU_PYTHON is the machine's Python, 3.12 if not given; GPU_WHEELS another folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
wheels=${GPU_WHEELS:-.data/gpu-wheels}
python=${GPU_PYTHON:-3.12}
most_mib=60

rm -rf "$wheels"
mkdir -p "$wheels"
for project in packages/* apps/*; do
    uv build --quiet --wheel --no-sources --package "$(basename "$project")" -o "$wheels"
done

# lightning-fabric is there where pytorch-lightning is, in no version that we know
names=(annotated-types lightning-fabric lightning-utilities pydantic pydantic-core simplejpeg tomli-w typing-extensions
    typing-inspection "$@")
platforms=()
for tag in manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux1_x86_64; do
    platforms+=(--platform "$tag")
done
pins=$(uv run --no-sync python benchmarks/gpu/wheels.py pins "${names[@]}")
# shellcheck disable=SC2086  # one argument a pin
uvx --quiet pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
    --python-version "$python" "${platforms[@]}" -d "$wheels" $pins

uv run --no-sync python benchmarks/gpu/wheels.py sources >"$wheels/SOURCES"
rm -f "$wheels/.gitignore" # uv writes one, and a folder that is ignored by its own file may not be copied
mib=$(($(du -sk "$wheels" | cut -f1) / 1024))
echo "$wheels: $(find "$wheels" -name '*.whl' | wc -l) wheels for Python $python, $mib MiB"
if ((mib > most_mib)); then
    echo "$wheels: more than $most_mib MiB: name fewer packages" >&2
    exit 1
fi
