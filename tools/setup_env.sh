#!/usr/bin/env bash
# Usage: tools/setup_env.sh PYTHON VENV CACHE
#
# Builds a virtual environment with the pinned versions of requirements/constraints.txt. The wheels are collected once
# in CACHE and every later environment of the same Python is installed from there without the network: pip's own cache
# cannot be relied on for that, because some package indexes forbid caching.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2 cache=$3

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
say() { printf 'setup: %s\n' "$*"; }

command -v "$python" >/dev/null || fail "'$python' not found; name an interpreter, e.g. make install PYTHON=python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version) is too old; Python >= 3.10 is needed, e.g. make install PYTHON=python3.11"

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" ||
    fail "could not create $venv; on Debian and Ubuntu 'apt install python3-venv' brings what is missing"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# One folder per Python version and set of pins, complete only once its stamp exists: an interrupted download resumes.
tag=$("$venv/bin/python" -c 'import sys; print("py%d%d" % sys.version_info[:2])')
wheels=$cache/wheels-$tag
requirements=$wheels/requirements.txt
mkdir -p "$wheels"
# setup.py is the only list of dependencies; ask it instead of repeating it here.
"$venv/bin/python" setup.py --print-requirements dev eval timm export cluster >"$requirements"
pins=$(cat requirements/*.txt "$requirements" | sha256sum | cut -c1-12)
stamp=$wheels/.complete-$pins

# Options that make pip take a wheel tagged for another Python; see requirements/detectron2.txt.
foreign=(--no-deps --require-hashes --only-binary=:all: --python-version 3.10 --implementation cp --abi none --platform any)

if [ ! -e "$stamp" ]; then
    say "collecting wheels in $wheels (about 3 GB with torch, once per machine)"
    # one line a package is enough to see that it moves
    pip wheel --use-pep517 --find-links "$wheels" -w "$wheels" -c requirements/constraints.txt -r "$requirements" \
        2> >(grep -v ^WARNING >&2) | sed -un 's/^ *\(Downloading .*\|Building wheel.*\)/  \1/p'
    pip wheel -qq --use-pep517 --no-deps --find-links "$wheels" -w "$wheels" -r requirements/no-deps.txt
    pip download -qq "${foreign[@]}" -d "$wheels" -r requirements/detectron2.txt
    touch "$stamp"
fi

say "installing into $venv"
local_only=(--no-index --find-links "$wheels")
pip install -qq "${local_only[@]}" -c requirements/constraints.txt -r "$requirements"
pip install -qq --no-deps "${local_only[@]}" -r requirements/no-deps.txt
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
"$venv/bin/python" -c 'import detectron2' 2>/dev/null ||
    pip install -qq "${foreign[@]}" "${local_only[@]}" --target "$site" -r requirements/detectron2.txt
pip install -qq --no-deps --no-index --no-build-isolation -e .
"$venv/bin/python" -W ignore -c 'import torch, detectron2, fapn_d2; print(
    f"setup: ready: Python with torch {torch.__version__}, Detectron2 {detectron2.__version__}, fapn_d2 {fapn_d2.__version__}")'
