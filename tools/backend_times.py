"""What one backend takes on this machine: KERAS_BACKEND=jax python tools/backend_times.py

A head on a frozen part, trained by `Model.fit` and by `transferlit` in turns, by `Model.fit` on features
and, with PyTorch, by hand; and a sweep beside its settings one by one. Medians in seconds.
"""
import statistics
import time

import keras
import numpy as np

import transferlit as tl
from transferlit.backends import backend_version

ROWS, TURNS, EPOCHS, RATES = 10_000, 5, 3, 8
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


def on_features(model, x, y, **how):
    """Keras' `fit` of the head alone, on what the frozen part makes."""
    cut = tl.split(model)
    features = cut.lower.predict(x, batch_size=1024, verbose=0)
    top = keras.models.clone_model(cut.upper)
    top.compile(keras.optimizers.Adam(1e-3), model.loss, metrics=["accuracy"])
    top.fit(features, y, **how)


def by_hand(model, x, y, batch_size: int, epochs: int, callbacks: list, verbose: int):
    """The same in PyTorch, without Keras."""
    import torch

    features, labels = torch.tensor(tl.split(model).lower.predict(x, batch_size=1024, verbose=0)), torch.tensor(y)
    nn, (clock,) = torch.nn, callbacks
    net, mean_loss = nn.Sequential(nn.Linear(50, 50), nn.ELU(), nn.Linear(50, 10)), nn.CrossEntropyLoss()
    adam = torch.optim.Adam(net.parameters(), fused=True)
    for epoch in range(epochs):
        clock.on_epoch_begin(epoch)
        for rows in torch.randperm(len(features)).split(batch_size):
            adam.zero_grad()
            mean_loss(net(features[rows]), labels[rows]).backward()
            adam.step()
        clock.on_epoch_end(epoch)


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
    ways = {"Model.fit": by_keras, "tl.fit": tl.fit, "Model.fit on features": on_features}
    if keras.backend.backend() == "torch":
        ways["by hand on features"] = by_hand
    epochs = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, fit in ways.items():
            epochs[name].append(later_epoch(fit))
    print(f"Keras {keras.__version__} on {keras.backend.backend()} {backend_version()}")
    for name, took in epochs.items():
        print(f"an epoch, {name}: {statistics.median(took):.3f}")
    print(f"sweep over {RATES} rates: {seconds(sweep):.1f}")
    one_by_one = [keras.callbacks.Callback()]  # any callback sees one model at a time
    print(f"the same one by one: {seconds(lambda: sweep(callbacks=one_by_one)):.1f}")


if __name__ == "__main__":
    main()
