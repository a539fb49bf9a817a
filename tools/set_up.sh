#!/usr/bin/env bash
# Build .venv from requirements/cpu.lock. Run by `make`; a second run finds .venv/.ready and does nothing.
# Needs Python 3.11; as root on Debian it adds missing system packages itself.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '[set-up] %s\n' "$*"; }

python=${K15_PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  say "Python 3.11 is needed, found $("$python" --version 2>&1). Name another one with K15_PYTHON=/path/to/python3.11."
  exit 1
}

missing=()
ldconfig -p | grep 'libnuma\.so\.1' >/dev/null || missing+=(libnuma1)                       # vLLM's CPU library links it
"$python" -c 'import ensurepip' 2>/dev/null || missing+=(python3.11-venv)
"$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
  || missing+=(python3.11-dev)                                                     # csrc's bindings include it
# The sandbox for code prompts and the tests with hosts in network namespaces need root anyway: without it these are
# left out, with a word about it.
sandbox=()
command -v g++ >/dev/null || sandbox+=(g++)
command -v gcc >/dev/null || sandbox+=(gcc)
command -v ip >/dev/null || sandbox+=(iproute2)
command -v bwrap >/dev/null || sandbox+=(bubblewrap)
command -v crun >/dev/null || sandbox+=(crun)
ldconfig -p | grep 'libseccomp\.so\.2' >/dev/null || sandbox+=(libseccomp2)
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  missing+=("${sandbox[@]}")
elif ((${#sandbox[@]})); then
  say "the code sandbox and the tests of joining will not start: they need ${sandbox[*]}, and only root with apt-get can install that here"
fi
if ((${#missing[@]})); then
  say "installing system packages: ${missing[*]}"
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "cannot: that needs root and apt-get. Install them by hand and run this again."
    exit 1
  fi
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

[ -x .venv/bin/python ] || { say "creating .venv"; "$python" -m venv .venv; }
rm -f .venv/.ready
pip=(.venv/bin/python -m pip --disable-pip-version-check)
install=("${pip[@]}" install --quiet --no-deps --no-compile)

torch=$(grep '^torch==' requirements/cpu.lock)
say "installing $torch"
"${install[@]}" "$torch" 2>/dev/null || {
  say "the configured package index has no $torch; adding PyTorch's CPU index"
  "${install[@]}" --extra-index-url https://download.pytorch.org/whl/cpu "$torch"
}
say "installing $(grep -c '==' requirements/cpu.lock) pinned packages (one to three minutes)"
"${install[@]}" -r requirements/cpu.lock 2> >(grep -v 'is ignored: it is neither a file nor a directory' >&2)
"${install[@]}" --no-build-isolation -e . 2> >(grep -v 'is ignored: it is neither' >&2)
say "compiling Python files"
.venv/bin/python -m compileall -q -j 0 .venv/lib/python3.11/site-packages >/dev/null 2>&1 || true
touch .venv/.ready
say "done"
