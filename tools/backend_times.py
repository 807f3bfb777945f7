"""What one backend takes on this machine: KERAS_BACKEND=jax python tools/backend_times.py

A head on a frozen part, trained by `Model.fit` and by `transferlit` in turns, and a sweep beside its
settings one by one. Medians in seconds.
"""
import statistics
import time

import keras
import numpy as np

import transferlit as tl
from transferlit.backends import backend_version

ROWS, TURNS, EPOCHS, RATES = 10_000, 3, 3, 8
RNG = np.random.default_rng(0)
X, Y = RNG.random((ROWS, 784), "float32"), RNG.integers(0, 10, ROWS)
HOW = dict(batch_size=50, verbose=0)


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.began)


def network():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    low = [dense(n, "elu", trainable=False) for n in (300, 100, 50)]
    model = keras.Sequential([keras.Input((784,)), *low, dense(50, "elu"), dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def later_epoch(fit) -> float:
    """An epoch after the first, which compiles."""
    clock, model = Clock(), network()
    fit(model, X, Y, epochs=EPOCHS, callbacks=[clock], **HOW)
    return statistics.median(clock.seconds[1:])


def seconds(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def by_keras(model, *data, **how):
    model.fit(*data, **how)


def sweep(**more):
    rates = list(np.geomspace(1e-4, 1e-2, RATES))
    over = {"optimizer.learning_rate": rates}
    tl.sweep(network(), X, Y, over=over, epochs=3, validation_split=0.1, **HOW, **more)


def main():
    epochs = {"Model.fit": [], "tl.fit": []}
    for _ in range(TURNS):
        epochs["Model.fit"].append(later_epoch(by_keras))
        epochs["tl.fit"].append(later_epoch(tl.fit))
    print(f"Keras {keras.__version__} on {keras.backend.backend()} {backend_version()}")
    for name, took in epochs.items():
        print(f"an epoch, {name}: {statistics.median(took):.3f}")
    print(f"sweep over {RATES} rates: {seconds(sweep):.1f}")
    one_by_one = [keras.callbacks.Callback()]  # any callback sees one model at a time
    print(f"the same one by one: {seconds(lambda: sweep(callbacks=one_by_one)):.1f}")


if __name__ == "__main__":
    main()
