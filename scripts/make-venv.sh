#!/usr/bin/env bash
# Makes a virtual environment: make-venv.sh FOLDER. PYTHON names the interpreter (python3).
#
# Debian keeps what Python needs for that in a package of its own, python3-venv. Where it is missing, root gets it
# installed, virtualenv takes its place where that is there, and anybody else is told what to install.
set -euo pipefail

folder=$1
python=${PYTHON:-python3}

fail() {
    echo "simvirt: $*" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "there is no '$python'. Install Python 3.11 or newer (on Debian: apt install python3 python3-venv)."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old: simvirt needs Python 3.11 or newer. Name another one: make PYTHON=python3.12 demo"

has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }

if ! has_venv && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    package=$("$python" -c 'import sys; print(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")')
    echo "simvirt: '$python' cannot make virtual environments; installing Debian's $package" >&2
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package"; } >/dev/null || true
fi

rm -rf "$folder"
if has_venv; then
    "$python" -m venv "$folder"
elif command -v virtualenv >/dev/null; then
    virtualenv --quiet --python "$python" "$folder"
else
    fail "'$python' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"
fi
