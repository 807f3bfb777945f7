#!/usr/bin/env bash
# The core tests on another Keras, beside the packages that are installed: tools/test_keras.sh 3.7 .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1 base=${2:-python3} venv=.keras-$1
site=$("$base" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")

"$base" -m venv "$venv"
# Keras alone goes into the new environment; TensorFlow and the rest are found where they are.
own=$("$venv/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
echo "$site" > "$own/zz_base.pth"
case $version in
  nightly) what=keras-nightly ;;
  *) what="keras==$version.*" ;;
esac
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --upgrade --ignore-installed "$what"
"$venv/bin/python" -c "import keras; print('Keras', keras.__version__, 'in', keras.__file__)"
PYTHONPATH="$PWD:$PWD/tools${PYTHONPATH:+:$PYTHONPATH}" "$venv/bin/python" -m pytest -q \
  tests/keras tests/freezing tests/finetuning tests/loop/test_fit.py tests/checkpoint tests/cut
