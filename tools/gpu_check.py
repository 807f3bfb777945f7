"""What JAX or PyTorch do on an accelerator, in at most eight minutes: python tools/gpu_check.py [out.json]

`KERAS_BACKEND=torch` chooses PyTorch. Each part is measured beside Keras' `fit` and a loop by hand. What fails is named and the
rest goes on; the figures are printed as JSON, medians in seconds, with the name of the card.
"""
import json
import os
import statistics
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TRANSFERLIT_HOME", "/tmp/transferlit-gpu-check")

import keras
import numpy as np

import transferlit as tl
from transferlit.backends import backend_version, count_accelerators, to_numpy

BACKEND = keras.backend.backend()
if BACKEND not in ("jax", "torch"):
    sys.exit(f"This measures JAX and PyTorch. Set KERAS_BACKEND to jax or torch. Received: {BACKEND}.")
if BACKEND == "jax":
    import jax
    import jax.numpy as jnp
else:
    import torch

BEGAN, LIMIT = time.perf_counter(), float(os.environ.get("GPU_CHECK_SECONDS", 440))
SMALL = os.environ.get("GPU_CHECK_SMALL") == "1"  # a trial of the script itself, on any machine
FOUND = {}


def left() -> float:
    return LIMIT - (time.perf_counter() - BEGAN)


def say(name: str, value) -> None:
    FOUND[name] = value
    print(f"{time.perf_counter() - BEGAN:6.1f}s {name}: {json.dumps(value)}", flush=True)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(FOUND, indent=1))


def part(function):
    """Run one part; what goes wrong is told and does not end the others."""
    if left() < 20:
        return say(function.__name__, "left out: no time")
    try:
        say(function.__name__, function())
    except Exception as error:
        traceback.print_exc()
        say(function.__name__, f"failed: {type(error).__name__}: {str(error)[:300]}")


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.began)


def epochs(fit, model, *data, **how) -> float:
    """The median of the epochs but the first, which compiles."""
    clock = Clock()
    fit(model, *data, callbacks=[clock], verbose=0, **how)
    return round(statistics.median(clock.seconds[1:] or clock.seconds), 5)


def keras_fit(model, *data, **how):
    return model.fit(*data, **how)


# Correctness

def small(kind: str):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inside = {
        "dropout": [layers.Dropout(0.3)],
        "batchnorm": [layers.BatchNormalization()],
        "plain": [],
    }[kind]
    model = keras.Sequential(
        [keras.Input((20,)), layers.Dense(32, "relu", name="low"), *inside, layers.Dense(5)]
    )
    model.get_layer("low").trainable = False
    model.compile(keras.optimizers.Adam(0.01), loss(), metrics=["accuracy"])
    return model


def same_as_keras():
    """The largest difference of a weight after three epochs, of numbers around 1."""
    rng, apart = np.random.default_rng(0), {}
    x, y = rng.normal(size=(1003, 20)).astype("float32"), rng.integers(0, 5, 1003)
    for kind in ("plain", "dropout", "batchnorm"):
        after = []
        for fit in (keras_fit, tl.fit):
            model = small(kind)
            keras.utils.set_random_seed(1)
            # With PyTorch Keras shuffles by a loader of its own.
            how = dict(batch_size=16, epochs=3, validation_split=0.1, shuffle=BACKEND == "jax")
            fit(model, x, y, verbose=0, **how)
            after.append(model.get_weights())
        apart[kind] = float(max(np.abs(a - b).max() for a, b in zip(*after)))
    return apart


# A head on features

def head(width: int):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(width, "elu", name="hidden", trainable=False),
            layers.Dense(50, "elu"),
            layers.Dense(10),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-3), loss(), metrics=["accuracy"])
    return model


def by_hand_torch(width: int, features, y, size: int, count: int) -> float:
    """Adam on two dense layers: a step as one CUDA graph, or operation by operation without a GPU."""
    nn, on_gpu = torch.nn, features.is_cuda
    model = nn.Sequential(nn.Linear(width, 50), nn.ELU(), nn.Linear(50, 10)).to(features.device)
    adam, mean_loss = torch.optim.Adam(model.parameters(), capturable=on_gpu), nn.CrossEntropyLoss()
    right, total = (torch.zeros((), device=features.device) for _ in range(2))

    def step(batch):
        logits = model(features[batch])
        loss = mean_loss(logits, y[batch])
        loss.backward()
        adam.step()
        right.add_((logits.argmax(-1) == y[batch]).sum())
        total.add_(loss.detach() * len(batch))

    def whole_step(batch):
        adam.zero_grad(set_to_none=False)
        step(batch)

    replay = captured(step, adam, torch.arange(size, device=features.device)) if on_gpu else whole_step
    took = []
    for _ in range(count):
        began = time.perf_counter()
        for batch in torch.randperm(len(features), device=features.device).split(size):
            (replay if len(batch) == size else whole_step)(batch)
        float(total)  # waits for the card
        took.append(time.perf_counter() - began)
    return round(statistics.median(took[1:]), 5)


def captured(step, adam, rows):
    """A step as one launch; gradients are made in it, so they need no zeros."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            adam.zero_grad()
            step(rows)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    adam.zero_grad()
    with torch.cuda.graph(graph):
        step(rows)

    def replay(batch):
        rows.copy_(batch)
        graph.replay()

    return replay


def by_hand_jax(width: int, features, y, size: int, count: int) -> float:
    """Adam on two dense layers, all steps of an epoch in one `lax.scan`."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape) * 0.05, "float32")

    weights = [draw(width, 50), draw(50), draw(50, 10), draw(10)]

    def mean_loss(w, x, labels):
        logits = jax.nn.elu(x @ w[0] + w[1]) @ w[2] + w[3]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        right = jnp.sum(jnp.argmax(logits, -1) == labels)
        return -picked.mean(), right

    def step(state, rows):
        w, m, v, t, right, total = state
        (one, ok), g = jax.value_and_grad(mean_loss, has_aux=True)(w, features[rows], y[rows])
        m = [0.9 * a + 0.1 * b for a, b in zip(m, g)]
        v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g)]
        t = t + 1
        rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        w = [a - rate * b / (jnp.sqrt(c) + 1e-7) for a, b, c in zip(w, m, v)]
        return (w, m, v, t, right + ok, total + one * len(rows)), None

    whole = len(features) // size * size

    @jax.jit
    def epoch(state, order):
        state = jax.lax.scan(step, state, order[:whole].reshape(-1, size))[0]
        return step(state, order[whole:])[0] if whole < len(order) else state

    zeros = [jnp.zeros_like(w) for w in weights]
    state, took = (weights, zeros, zeros, 0.0, 0, 0.0), []
    for _ in range(count):
        began = time.perf_counter()
        state = epoch(state, np.random.permutation(len(features)).astype("int32"))
        float(state[-1])
        took.append(time.perf_counter() - began)
    return round(statistics.median(took[1:]), 5)


by_hand = by_hand_jax if BACKEND == "jax" else by_hand_torch


def heads():
    rows, count = (2_000, 4) if SMALL else (55_000, 12)
    rng = np.random.default_rng(0)
    x, y = rng.random((rows, 784), "float32"), rng.integers(0, 10, rows)
    for width in (50, 1000):
        for size in (32, 256):
            model = head(width)
            lower = keras.Sequential(model.layers[:1])
            host = lower.predict(x, batch_size=1024, verbose=0)
            on_card = [keras.ops.convert_to_tensor(a) for a in (host, y)]
            top = keras.Sequential([keras.Input((width,)), *map(fresh, model.layers[1:])])
            top.compile(keras.optimizers.Adam(1e-3), loss(), metrics=["accuracy"])
            how = dict(batch_size=size, epochs=2 if size == 32 else 3)
            say(
                f"{width} features, batch {size}",
                {
                    "transferlit": epochs(tl.fit, model, x, y, batch_size=size, epochs=count),
                    "by hand": by_hand(width, *on_card, size, count),
                    "keras fit on features": epochs(keras_fit, top, host, y, **how),
                    "keras fit": epochs(keras_fit, head(width), x, y, **how),
                },
            )
    return "all"


def fresh(layer):
    return type(layer).from_config(layer.get_config())


# Pictures through a backbone

def backbone(pixels: int):
    keras.utils.set_random_seed(0)
    base = keras.applications.MobileNetV2(
        input_shape=(pixels, pixels, 3), include_top=False, weights=None, pooling="avg"
    )
    base.trainable = False
    enters = keras.Input((pixels, pixels, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 127.5, -1)(enters)
    model = keras.Model(enters, keras.layers.Dense(10)(base(scaled, training=False)))
    model.compile(keras.optimizers.Adam(1e-3), loss(), metrics=["accuracy"])
    return model


def throughput(model, x, size: int) -> float:
    """Rows a second of the lower part by hand, in batches of one size."""
    run, parts = lower_part(model), [x[i : i + size] for i in range(0, len(x) - size + 1, size)]
    to_numpy(run(parts[0]))
    began = time.perf_counter()
    made = [run(p) for p in parts]
    for m in made:
        to_numpy(m)
    return round(len(parts) * size / (time.perf_counter() - began))


def lower_part(model):
    """A function of rows: compiled by JAX; with PyTorch as Keras calls it, without gradients."""
    lower = tl.split(model).lower
    if BACKEND == "torch":
        return torch.no_grad()(lambda rows: lower(rows, training=False))
    state = [[v.value for v in g] for g in (lower.trainable_variables, lower.non_trainable_variables)]

    @jax.jit
    def run(trainable, others, rows):
        return lower.stateless_call(trainable, others, rows, training=False)[0]

    return lambda rows: run(*state, jnp.asarray(rows))


def pictures():
    rows, pixels = (64, 96) if SMALL else (20_000, 224)
    rng = np.random.default_rng(0)
    few = rng.integers(0, 256, (min(rows, 2048), pixels, pixels, 3), "uint8")
    x = np.concatenate([few] * -(-rows // len(few)))[:rows]
    y = rng.integers(0, 10, rows)
    model = backbone(pixels)
    told = {"rows": rows, "pixels": pixels}
    sizes = (16, 32) if SMALL else (64, 128, 256, 512)
    told["by hand, rows/s by batch size"] = {
        n: throughput(model, x[: max(n * 8, 2048)], n) for n in sizes
    }
    tl.precompute(model, x[: len(x) // 10], y[: len(y) // 10], verbose=False)  # compiles
    for again in ("", " again"):
        began = time.perf_counter()
        kept = tl.precompute(model, x, y, verbose=False)
        told[f"transferlit{again}, rows/s"] = round(rows / (time.perf_counter() - began))
    told["transferlit, batch size"] = kept.batch_size
    how = dict(batch_size=256 if not SMALL else 16, epochs=6)
    told["later epochs, transferlit"] = epochs(
        lambda m, **h: tl.fit(m, cache=kept, **h), model, **how
    )
    some = max(512, rows // 10) if not SMALL else 32
    how = dict(how, epochs=2)
    one = epochs(keras_fit, backbone(pixels), x[:some], y[:some], **how)
    told["an epoch of keras fit (from a tenth of the rows)"] = round(one * rows / some, 3)
    return told


# A sweep

def sweep():
    rows = 2_000 if SMALL else 55_000
    rng = np.random.default_rng(0)
    x, y = rng.random((rows, 784), "float32"), rng.integers(0, 10, rows)
    rates = list(np.geomspace(1e-4, 1e-1, 4 if SMALL else 32))
    how = dict(epochs=3, batch_size=256, validation_split=0.1)
    began = time.perf_counter()
    tl.sweep(head(50), x, y, over={"optimizer.learning_rate": rates}, **how)
    took = time.perf_counter() - began
    began = time.perf_counter()
    for rate in rates[:2]:
        model = head(50)
        model.optimizer.learning_rate = rate
        model.fit(x, y, verbose=0, **how)
    one = (time.perf_counter() - began) / 2
    return {"settings": len(rates), "transferlit": round(took, 2), "keras fit": round(one * len(rates), 2)}


def memory():
    """Bytes of the card: all, and the most that were in use."""
    if not count_accelerators():
        return {}
    if BACKEND == "torch":
        most = torch.cuda.max_memory_allocated()
        return {"bytes_limit": torch.cuda.mem_get_info()[1], "peak_bytes_in_use": most}
    stats = jax.local_devices()[0].memory_stats() or {}
    return {k: stats[k] for k in ("bytes_limit", "peak_bytes_in_use", "bytes_in_use") if k in stats}


def card() -> str:
    if not count_accelerators():
        return "cpu"
    return torch.cuda.get_device_name() if BACKEND == "torch" else jax.local_devices()[0].device_kind


def chosen(every: dict) -> list:
    names = os.environ.get("GPU_CHECK_PARTS", " ".join(every)).split()
    if unknown := [name for name in names if name not in every]:
        sys.exit(f"GPU_CHECK_PARTS must name some of: {', '.join(every)}. Received: {' '.join(unknown)}.")
    return [every[name] for name in names]


def main():
    every = {one.__name__: one for one in (same_as_keras, heads, pictures, sweep, memory)}
    parts = chosen(every)
    say("card", card())
    say("versions", {BACKEND: backend_version(), "keras": keras.__version__, "numpy": np.__version__})
    for one in parts:
        part(one)
    say("seconds", round(time.perf_counter() - BEGAN, 1))
    print(json.dumps(FOUND, indent=1))


if __name__ == "__main__":
    main()
