"""What PyTorch and Flax compute, layer by layer: `python make_other_libraries.py torch` (or `torch_nets`, `flax`) where that is installed.

Writes fixtures/torch.npz, torch_nets.npz or flax.npz: `lstm|l.weight_ih_l0` is an array of the file, `lstm|x` and `lstm|y` what goes in and comes out.
"""
import sys
from pathlib import Path

import numpy as np

made = {}


def make_torch():
    import torch
    from torch import nn

    torch.manual_seed(0)

    def put(name, layer, x, call=lambda layer, x: layer(x)):
        for key, value in layer.state_dict().items():
            if "running" in key:
                value.copy_(torch.rand_like(value) + 0.5)
            elif value.dtype.is_floating_point and "norm" in name:
                value.copy_(torch.randn_like(value))
        with torch.no_grad():
            y = call(layer.eval(), x)
        made.update({f"{name}|l.{key}": value.numpy() for key, value in layer.state_dict().items()})
        made.update({f"{name}|x": x.numpy(), f"{name}|y": y.numpy()})

    r = torch.randn
    put("dense", nn.Linear(5, 5), r(3, 5))
    put("conv1d", nn.Conv1d(4, 4, 3), r(2, 4, 9))
    put("conv2d", nn.Conv2d(3, 3, 3), r(2, 3, 8, 8))
    put("conv2d_groups", nn.Conv2d(4, 6, 3, groups=2), r(2, 4, 8, 8))
    put("conv3d", nn.Conv3d(2, 2, 2), r(2, 2, 4, 4, 4))
    put("deconv1d", nn.ConvTranspose1d(3, 3, 3, stride=2), r(2, 3, 5))
    put("deconv2d", nn.ConvTranspose2d(3, 3, 3, stride=2), r(2, 3, 5, 5))
    put("depthwise1d", nn.Conv1d(4, 8, 3, groups=4), r(2, 4, 8))
    put("depthwise2d", nn.Conv2d(4, 8, 3, groups=4), r(2, 4, 8, 8))
    put("embedding", nn.Embedding(6, 6), torch.arange(6)[None])
    put("batchnorm", nn.BatchNorm1d(5), r(3, 5))
    put("layernorm", nn.LayerNorm(5), r(3, 5))
    put("groupnorm", nn.GroupNorm(2, 4), r(2, 4, 5, 5))
    put("prelu", nn.PReLU(5), r(2, 5))
    for name, kind in dict(lstm=nn.LSTM, gru=nn.GRU, rnn=nn.RNN).items():
        first = lambda layer, x: layer(x)[0]
        put(name, kind(4, 4, batch_first=True), r(2, 5, 4), first)
        put(f"plain_{name}", kind(4, 4, batch_first=True, bias=False), r(2, 5, 4), first)
        put(f"both_{name}", kind(4, 4, batch_first=True, bidirectional=True), r(2, 5, 4), first)
        put(f"two_{name}", kind(4, 4, 2, batch_first=True), r(2, 5, 4), first)
    for name, bias in dict(attention=True, plain_attention=False).items():
        attend = lambda layer, x: layer(x, x, x, need_weights=False)[0]
        put(name, nn.MultiheadAttention(8, 2, batch_first=True, bias=bias), r(2, 5, 8), attend)
    grid, shape = r(1, 17, 6), {"larger": 6, "smaller": 3}
    for name, side in shape.items():
        picture = grid[:, 1:].reshape(1, 4, 4, 6).permute(0, 3, 1, 2)
        new = nn.functional.interpolate(picture, (side, side), mode="bilinear").flatten(2).permute(0, 2, 1)
        made.update({f"resize_{name}|x": grid.numpy(), f"resize_{name}|y": torch.cat([grid[:, :1], new], 1).numpy()})


def make_torch_nets():
    """Several layers, as whole models have them: what is between layers and what their names are matter here."""
    from collections import OrderedDict

    import torch
    from torch import nn
    from torch.nn.utils import parametrizations, spectral_norm, weight_norm

    torch.manual_seed(0)

    def put(name, x, prefix="", call=lambda net, x: net(x), **layers):
        net = nn.Sequential(OrderedDict(layers)).eval()
        for key, value in net.state_dict().items():
            if "running" in key or "bn" in key and value.dtype.is_floating_point:
                value.copy_(torch.rand_like(value) + 0.5)
        with torch.no_grad():
            y = call(net, x)
        made.update({f"{name}|{prefix}{key}": value.numpy() for key, value in net.state_dict().items()})
        made.update({f"{name}|x": x.numpy(), f"{name}|y": y.numpy()})

    r, conv = torch.randn, nn.Conv2d
    put("flat", r(2, 2, 5, 5), conv=conv(2, 3, 3), pool=nn.MaxPool2d(2, 1), flat=nn.Flatten(), bn=nn.BatchNorm1d(12), fc=nn.Linear(12, 4))
    put("square", r(2, 2, 4, 4), conv=conv(2, 3, 3), flat=nn.Flatten(), fc=nn.Linear(12, 12))
    put("line", r(2, 3, 8), conv=nn.Conv1d(3, 4, 3), flat=nn.Flatten(), fc=nn.Linear(24, 4))
    put("words", torch.randint(0, 7, (3, 5)), emb=nn.Embedding(7, 4), flat=nn.Flatten(), fc=nn.Linear(20, 4))
    put("colours", r(2, 3, 4, 4), flat=nn.Flatten(), fc=nn.Linear(48, 4))
    put("drawn", r(3, 5), fc=nn.Linear(5, 36), bn=nn.BatchNorm1d(36), relu=nn.ReLU(), view=nn.Unflatten(1, (4, 3, 3)), up=nn.ConvTranspose2d(4, 2, 3, 2))
    apart = nn.Sequential(OrderedDict(depthwise=conv(4, 8, 3, groups=4), pointwise=conv(8, 5, 1)))
    put("apart", r(2, 4, 6, 6), block=apart)
    put("normed", r(3, 4), a=weight_norm(nn.Linear(4, 4)), b=parametrizations.weight_norm(nn.Linear(4, 4)), c=spectral_norm(nn.Linear(4, 4)), d=parametrizations.spectral_norm(nn.Linear(4, 4)))
    put("stacked", r(2, 5, 4), rnn=nn.GRU(4, 4, 2, batch_first=True), call=lambda net, x: net(x)[0])
    put("steps", r(2, 3, 6, 6), prefix="module.", layer1=nn.Sequential(conv(3, 4, 3), nn.BatchNorm2d(4)), layer2=nn.Sequential(conv(4, 4, 3), nn.BatchNorm2d(4)))

    heads = lambda t: t.view(*t.shape[:2], 2, 4).transpose(1, 2)
    look = lambda *qkv: nn.functional.scaled_dot_product_attention(*map(heads, qkv)).transpose(1, 2).flatten(2)
    attention = lambda **layers: nn.ModuleDict(layers)
    put("fused", r(2, 5, 8), attn=attention(qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8)), call=lambda net, x: net.attn["proj"](look(*net.attn["qkv"](x).chunk(3, -1))))
    three = {step: nn.Linear(8, 8) for step in ("query", "key", "value")}
    put("bert", r(2, 5, 8), attention=attention(self=nn.ModuleDict(three), output=nn.ModuleDict(dict(dense=nn.Linear(8, 8)))),
        call=lambda net, x: net.attention["output"]["dense"](look(*(net.attention["self"][step](x) for step in three))))


def make_flax():
    import jax
    import jax.numpy as jnp
    from flax import linen as nn
    from flax.traverse_util import flatten_dict

    keys = iter(jax.random.split(jax.random.PRNGKey(0), 1000))
    r = lambda *shape: jax.random.normal(next(keys), shape)

    def put(name, make, x, wrap=lambda layer: layer):
        class Model(nn.Module):
            @nn.compact
            def __call__(self, x):
                return wrap(make(name="l"))(x)

        variables = jax.tree_util.tree_map(lambda a: jnp.abs(r(*a.shape)) + 0.2, Model().init(next(keys), x))
        made.update({f"{name}|{key}": np.asarray(a) for key, a in flatten_dict(variables, sep="/").items()})
        made.update({f"{name}|x": np.asarray(x), f"{name}|y": np.asarray(Model().apply(variables, x))})

    of = lambda kind, *given, **more: lambda name: kind(*given, name=name, **more)
    put("dense", of(nn.Dense, 5), r(3, 5))
    put("conv1d", of(nn.Conv, 3, (3,), padding="VALID"), r(2, 8, 3))
    put("conv2d", of(nn.Conv, 3, (3, 3), padding="VALID"), r(2, 8, 8, 3))
    put("deconv2d", of(nn.ConvTranspose, 3, (3, 3), strides=(2, 2), padding="VALID"), r(2, 5, 5, 3))
    put("depthwise2d", of(nn.Conv, 8, (3, 3), padding="VALID", feature_group_count=4), r(2, 8, 8, 4))
    put("embedding", of(nn.Embed, 6, 6), jnp.arange(6)[None])
    put("batchnorm", of(nn.BatchNorm, use_running_average=True, epsilon=1e-5), r(3, 5))
    put("layernorm", of(nn.LayerNorm, epsilon=1e-5), r(3, 5))
    put("groupnorm", of(nn.GroupNorm, 2, epsilon=1e-5), r(2, 5, 5, 4))
    put("prelu", of(nn.PReLU), r(2, 5))
    for name, kind in dict(lstm=nn.OptimizedLSTMCell, gru=nn.GRUCell, rnn=nn.SimpleCell).items():
        put(name, of(kind, 4), r(2, 5, 4), nn.RNN)
    put("attention", of(nn.MultiHeadDotProductAttention, 2, qkv_features=8), r(2, 5, 8))


if __name__ == "__main__":
    library = sys.argv[1]
    dict(torch=make_torch, torch_nets=make_torch_nets, flax=make_flax)[library]()
    np.savez_compressed(Path(__file__).parent / "fixtures" / f"{library}.npz", **made)
