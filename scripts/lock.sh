#!/usr/bin/env bash
# Writes the lock files: every package of an environment with its exact version and the hashes of its files, for all
# platforms and Python versions that simvirt supports, and without any address. `make lock` runs it; CONTRIBUTING.md says when.
#   requirements/test.lock  what `make test` installs
#   requirements/run.lock   what `make demo` installs: the same versions, without the test tools
set -euo pipefail
cd "$(dirname "$0")/.."

resolver=build/resolver
if [[ ! -x $resolver/bin/uv ]]; then
    "${PYTHON:-python3}" -m venv "$resolver"
    "$resolver/bin/pip" install --quiet uv
fi

compile() {
    "$resolver/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade "$@"
}
compile pyproject.toml requirements/build.in --extra build --extra test --output-file requirements/test.lock
compile pyproject.toml requirements/build.in --extra build --constraints requirements/test.lock \
    --output-file requirements/run.lock

if grep -nE '://|file:|^-|^--' requirements/*.lock; then
    echo "lock.sh: the lines above name an address or an option; a lock file holds names, versions and hashes only" >&2
    exit 1
fi
