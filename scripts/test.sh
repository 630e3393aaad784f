#!/usr/bin/env bash
# Install the development extras and pass the tests. `--all` adds the runs of real models (about ten minutes more).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment dev
export OMP_NUM_THREADS=1
if [ "${1:-}" = "--all" ]; then
  shift
  .venv/bin/ruff check src tests scripts
  .venv/bin/ruff format --check src tests scripts
  .venv/bin/mypy
  .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
  exec env OMP_NUM_THREADS=2 .venv/bin/python -m pytest -m slow "$@"
fi
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
