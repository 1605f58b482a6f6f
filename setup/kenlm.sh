#!/usr/bin/env bash
# Build KenLM into a virtual environment: the program lmplz (estimates n-gram models) and the module kenlm (queries them).
#   setup/kenlm.sh .venv
# The wheels on PyPI only query, and only to order 6, so both are built here from the source distribution, for orders to 7.
# Needs a C++ compiler; CMake, Ninja and Boost come from PyPI into a temporary folder. About 90 seconds on two cores.
set -euo pipefail

VENV=$(cd "${1:?usage: setup/kenlm.sh VENV}" && pwd)
VERSION=0.3.0
SHA256=c4628bb9fb63c8a6f9240035b8b037385cfc404cb72e933cf48878291edac1e8
MAX_ORDER=7
STAMP="kenlm $VERSION order $MAX_ORDER"
PYTHON="$VENV/bin/python"

if [ "$(cat "$VENV/share/kenlm.built" 2>/dev/null)" = "$STAMP" ] && "$PYTHON" -c "import kenlm" 2>/dev/null; then
  echo "$STAMP: already in $VENV"
  exit 0
fi
command -v c++ >/dev/null || { echo "error: no C++ compiler (c++) on PATH: install one, for example g++" >&2; exit 1; }

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
# --no-deps: cmeel-boost asks for an old NumPy that lmplz does not need
"$PYTHON" -m pip install --quiet --no-deps --target "$WORK/tools" \
  cmake ninja setuptools wheel cmeel "cmeel-boost<1.89"
export PATH="$WORK/tools/bin:$PATH" PYTHONPATH="$WORK/tools"

echo "kenlm==$VERSION --hash=sha256:$SHA256" >"$WORK/kenlm.txt"
"$PYTHON" -m pip download --quiet --no-deps --no-binary=kenlm --no-build-isolation --require-hashes \
  --requirement "$WORK/kenlm.txt" --dest "$WORK"
tar -xzf "$WORK/kenlm-$VERSION.tar.gz" -C "$WORK"
SOURCE="$WORK/kenlm-$VERSION"

echo "building lmplz"
BOOST="$WORK/tools/cmeel.prefix"
cmake -S "$SOURCE" -B "$WORK/build" -G Ninja -Wno-dev -DCMAKE_BUILD_TYPE=Release -DCMAKE_POLICY_VERSION_MINIMUM=3.10 \
  -DCMAKE_PREFIX_PATH="$BOOST" -DKENLM_MAX_ORDER=$MAX_ORDER -DBUILD_TESTING=OFF \
  -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DCMAKE_INSTALL_RPATH="\$ORIGIN/../lib/kenlm" >"$WORK/log" 2>&1 \
  && cmake --build "$WORK/build" --target lmplz >>"$WORK/log" 2>&1 || { tail -n 30 "$WORK/log" >&2; exit 1; }
mkdir -p "$VENV/lib/kenlm" "$VENV/share"
cp "$BOOST"/lib/libboost_{program_options,system,thread,chrono,atomic,container}.so.* "$VENV/lib/kenlm/"
install -m 755 "$WORK/build/bin/lmplz" "$VENV/bin/lmplz"
"$VENV/bin/lmplz" --help >/dev/null 2>&1 || [ $? -le 1 ] || { echo "error: the lmplz just built does not start" >&2; exit 1; }

echo "building the module kenlm"
MAX_ORDER=$MAX_ORDER "$PYTHON" -m pip install --quiet --no-deps --no-build-isolation --force-reinstall "$SOURCE"
"$PYTHON" -c "import kenlm"
echo "$STAMP" >"$VENV/share/kenlm.built"
