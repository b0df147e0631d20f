#!/usr/bin/env bash
# run.sh [--pretend | --cpu] [--minutes M] [--only PART ...] [--out FOLDER]: the whole run, one record.
#
# On a GPU it takes the wheels of prepare.sh and the machine's own python3 with its torch; where there are no wheels, the
# workspace's environment. --pretend and --cpu try the script itself, small, in the workspace's environment; with
# --wheels they take the wheels too. The record goes to FOLDER, $OUT or runs/gpu. PYTHON names another python3.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
wheels=${GPU_WHEELS:-.data/gpu-wheels}
mode=gpu out=${OUT:-runs/gpu} from=auto
rest=()
while (($#)); do
    case $1 in
    --pretend | --cpu) mode=${1#--} ;;
    --wheels) from=wheels ;;
    --out) out=$2 && shift ;;
    *) rest+=("$1") ;;
    esac
    shift
done
if [ $from = auto ]; then
    from=workspace
    if [ $mode = gpu ] && [ -d "$wheels" ]; then from=wheels; fi
fi

if [ $from = wheels ]; then
    python=${PYTHON:-python3}
    [ -f "$wheels/SOURCES" ] || { echo "$wheels: no wheels there; run benchmarks/gpu/prepare.sh first" >&2; exit 2; }
    built=$(cat "$wheels/SOURCES")
    if [ "$built" != "$("$python" benchmarks/gpu/wheels.py sources)" ]; then
        echo "$wheels: built from other sources than these; run benchmarks/gpu/prepare.sh again" >&2
        exit 2
    fi
    # a folder and not a venv: made from a venv, one would not see the torch of that venv
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
        --root-user-action=ignore --target "$site" "$wheels"/*.whl
    export PYTHONPATH="$site:$root${PYTHONPATH:+:$PYTHONPATH}"
    sources="wheels of the sources $built"
else
    python=${PYTHON:-.venv/bin/python}
    [ -x "$python" ] || { echo "$python: no such Python; run uv sync, or benchmarks/gpu/prepare.sh for a machine without uv" >&2; exit 2; }
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    sources="the workspace"
fi
# no compiled loops from another machine
export NUMBA_CACHE_DIR=${NUMBA_CACHE_DIR:-$(mktemp -d)}
"$python" -m benchmarks.gpu.run "$out" --mode $mode --built-from "$sources" ${rest[@]+"${rest[@]}"}
