#!/usr/bin/env bash
# The tests of another backend, in an environment of its own without TensorFlow: tools/test_backend.sh jax python3
set -euo pipefail
cd "$(dirname "$0")/.."
backend=$1 base=${2:-python3} venv=.backend-$1
"$base" -m venv "$venv"
# All that the package requires, but for TensorFlow.
needs=$(sed -n 's/^requirements = //p' settings.ini | tr ' ' '\n' | grep -v '^tensorflow')
"$venv/bin/python" -m pip install -q --disable-pip-version-check "$backend" $needs pytest
! "$venv/bin/python" -c "import tensorflow" 2>/dev/null
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" KERAS_BACKEND=$backend "$venv/bin/python" -m pytest -q tests/backends tests/loop/test_sweep.py
