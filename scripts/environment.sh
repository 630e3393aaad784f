# Shared by quickstart.sh and test.sh: a virtual environment with pinned versions; made once, renewed when pins change.
make_environment() {
  local extra="${1:+[$1]}"
  local python="${PYTHON:-python3}"
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "sovtune needs Python 3.11 or newer; found $("$python" --version 2>&1). Set PYTHON=/path/to/python3.12" >&2
    exit 3
  fi
  local stamp=".venv/.sovtune-${1:-run}"
  local wanted
  wanted="$(cat pyproject.toml scripts/constraints.txt | cksum)"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return
  fi
  echo "installing sovtune into .venv (a few minutes the first time)" >&2
  "$python" -m venv .venv
  # torch first and by exact version: with a range, pip may take a build with gigabytes of GPU libraries.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' scripts/constraints.txt)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt -e ".$extra"
  echo "$wanted" > "$stamp"
}
