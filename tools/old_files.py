"""Files that earlier Keras wrote, small enough to keep: `python tools/old_files.py` makes them anew.

Each version is installed into a folder of its own, on top of the TensorFlow that is there.
"""
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSIONS = (
    'keras==3.0.5', 'keras==3.3.3', 'keras==3.5.0', 'keras==3.6.0', 'keras==3.10.0', 'keras==3.12.0',
    'tf_keras==2.21.0',
)
TARGET = Path(__file__).parents[1] / 'tests' / 'formats' / 'fixtures'
KINDS = 'named', 'auto', 'subclassed'


def build(keras, kind: str):
    "The same program for every version."
    layers = keras.layers
    name = {n: n if kind == 'named' else None for n in ('in', 'norm', 'block', 'inner', 'both', 'out')}
    block = keras.Sequential(
        [keras.Input((4, 3)), layers.Dense(3, name=name['inner']), layers.BatchNormalization()],
        name=name['block'],
    )
    stack = [
        layers.Dense(3, activation='tanh', name=name['in']), block,
        layers.LayerNormalization(name=name['norm']),
        layers.Bidirectional(layers.GRU(2), name=name['both']), layers.Dense(2, name=name['out']),
    ]
    if kind == 'subclassed':
        return subclassed(keras, stack)
    x = h = keras.Input((4, 3))
    for layer in stack:
        h = layer(h)
    return keras.Model(x, h)


def subclassed(keras, stack: list):
    class Stack(keras.Model):
        def __init__(self):
            super().__init__()
            self.body, self.head = stack[:-1], stack[-1]

        def call(self, x):
            for layer in self.body:
                x = layer(x)
            return self.head(x)

    return Stack()


def inputs():
    import numpy as np

    return np.linspace(-1, 1, 24, dtype='float32').reshape(2, 4, 3)


def write(folder: Path, package: str) -> None:
    "With the Keras of this process: files of each kind, and what their models compute."
    import numpy as np

    keras, want, x = __import__(package), {}, inputs()
    suffixes = ['.weights.h5', '.keras'] + (['.h5', '.ckpt'] if package == 'tf_keras' else [])
    for kind in KINDS:
        model = build(keras, kind)
        model(x)
        model.compile('adam', 'mse')
        model.fit(x, np.ones((2, 2)), epochs=3, verbose=0)
        want[kind] = np.asarray(model(x))
        for suffix in suffixes:
            if kind != 'subclassed' or suffix in ('.weights.h5', '.ckpt'):
                weights = suffix in ('.weights.h5', '.ckpt')
                (model.save_weights if weights else model.save)(str(folder / f'{kind}{suffix}'))
    np.savez(folder / 'want.npz', **want)


def make(version: str, folder: Path) -> None:
    "One archive of what one version writes; its many zeros take little room there."
    package, libraries, out = version.partition('==')[0], folder / 'libraries', folder / 'out'
    out.mkdir()
    install = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', libraries]
    subprocess.run([*install, version, 'dm-tree'], check=True)
    env = os.environ | {'PYTHONPATH': str(libraries), 'KERAS_BACKEND': 'tensorflow'}
    subprocess.run([sys.executable, __file__, '--write', out, package], check=True, env=env)
    with zipfile.ZipFile(TARGET / f'{version.replace("==", "-")}.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        for file in sorted(out.iterdir()):
            z.write(file, file.name)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--write']:
        write(Path(sys.argv[2]), sys.argv[3])
    else:
        TARGET.mkdir(exist_ok=True)
        for version in sys.argv[1:] or VERSIONS:
            with tempfile.TemporaryDirectory() as folder:
                make(version, Path(folder))
