#!/usr/bin/env bash
# Tests and benchmarks on a GPU, in less than eight minutes, into one JSON file:
#
#   tools/gpu_check.sh [FILE]
#
# FILE is benchmarks/results/gpu.json if not given (gpu_quick.json without a GPU, where networks and images are small).
# All that the machine needs is a Python with torch: PYTHON names it (python3). What counterview needs beside is
# installed into build/gpu-check, which sees that Python's packages; WHEELS names a folder of wheels for a machine
# without a network. DEVICE=cpu measures the CPU of a machine that has a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
device="${DEVICE:-$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')}" || exit 2
quick=(); name=gpu
if [ "$device" = cpu ]; then quick=(--quick); name=gpu_quick; fi
out="${1:-benchmarks/results/$name.json}"
limit="${LIMIT_S:-470}"
ends=$((SECONDS + limit))

if ! "$python" - <<'CHECK' 2> /dev/null
import importlib.metadata, tomllib
from packaging.requirements import Requirement
names = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] + ["accelerate", "pytest", "pytest-timeout"]
for needed in map(Requirement, names):
    if not needed.specifier.contains(importlib.metadata.version(needed.name), prereleases=True):
        raise SystemExit(1)
CHECK
then
  place=build/gpu-check
  "$python" -m venv --system-site-packages "$place" || exit 2
  # Where that Python is of an environment itself, its packages are not those of the system.
  "$python" -c 'import sysconfig as s; print("\n".join({s.get_path("purelib"), s.get_path("platlib")}))' \
    > "$("$place/bin/python" -c 'import sysconfig as s; print(s.get_path("purelib"))')/parent.pth" || exit 2
  # The machine's own torch is kept: another one may not fit its driver.
  "$python" -c 'import torch; print("torch==" + torch.__version__.partition("+")[0])' > "$place/pins.txt" || exit 2
  from=(); if [ -n "${WHEELS:-}" ]; then from=(--no-index --find-links "$WHEELS"); fi
  "$place/bin/python" -m pip install --quiet --disable-pip-version-check ${from[@]+"${from[@]}"} --constraint "$place/pins.txt" \
    $("$python" - <<'NAMES'
import tomllib
names = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]
print(" ".join(n.replace(" ", "") for n in names if not n.startswith("torch>")), "accelerate", "pytest", "pytest-timeout")
NAMES
) || exit 2
  python="$place/bin/python"
fi

export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
left() { echo $((ends - SECONDS > 5 ? ends - SECONDS : 5)); }
status=0
timeout "$(left)" "$python" -m pytest -q -p no:cacheprovider tests/gpu || status=1
timeout "$(left)" "$python" -m benchmarks.gpu --device "$device" ${quick[@]+"${quick[@]}"} --out "$out" || status=1
echo "$out written in $SECONDS s"
exit $status
