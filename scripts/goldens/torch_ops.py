"""Every op of docs/ir.md as PyTorch computes it: `OPS[name](*operands, **attrs)` gives its result or a tuple of them.
Floats come as float64, whatever dtype they stand for; the caller rounds."""

import base64
import math
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

import philox

DTYPES = {
    "float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16,
    "int32": torch.int32, "int64": torch.int64, "uint8": torch.uint8, "bool": torch.bool,
}  # fmt: skip
OPS = {}


def op(function):
    OPS[function.__name__.rstrip("_")] = function
    return function


# --- leaves and sources --------------------------------------------------------------------------------------------


@op
def constant(shape, dtype, data):
    raw = bytearray(base64.b64decode(data))
    flat = torch.frombuffer(raw, dtype=DTYPES[dtype]) if raw else torch.empty(0, dtype=DTYPES[dtype])
    return flat.reshape(shape)


@op
def full(value, shape, dtype):
    return torch.full(shape, float(value), dtype=torch.float64).to(DTYPES[dtype])


@op
def iota(dim, shape, dtype):
    along = [-1 if i == dim else 1 for i in range(len(shape))]
    return torch.arange(shape[dim]).reshape(along).expand(shape).to(DTYPES[dtype])


def draw(numbers, key, first, stream, shape, whole):
    """The numbers of the elements from element `first` of `whole` on, `shape` of them along its dims."""
    index = torch.full((), 0 if first is None else int(first))
    for dim, size in enumerate(shape):
        index = index.unsqueeze(-1) + torch.arange(size) * math.prod(whole[dim + 1 :])
    return torch.from_numpy(np.asarray(numbers(key.tolist(), stream, index.numpy().astype(np.uint64))))


OPS["input"] = lambda x: x
OPS["result"] = lambda x, index: x[index]
OPS["detach"] = lambda x: x.detach()
OPS["barrier"] = lambda x: x.clone()
OPS["random_uniform"] = lambda key, first=None, *, stream, shape, whole, dtype: (
    draw(philox.uniform, key, first, stream, shape, whole)
)
OPS["random_normal"] = lambda key, first=None, *, stream, shape, whole, dtype: (
    draw(philox.normal, key, first, stream, shape, whole)
)
OPS["bernoulli"] = lambda key, first=None, *, p, stream, shape, whole, dtype: (
    (draw(philox.uniform, key, first, stream, shape, whole) < float(np.float32(p))).to(DTYPES[dtype])
)

# --- elementwise ---------------------------------------------------------------------------------------------------

for name in (
    "neg abs sign exp exp2 expm1 log log1p log2 sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh sigmoid erf "
    "reciprocal square floor ceil round trunc logical_not isnan isinf isfinite maximum minimum atan2 eq ne lt le gt ge "
    "logical_and logical_or logical_xor where add sub mul"
).split():
    OPS[name] = getattr(torch, name)

OPS["relu"] = lambda x: torch.relu(x) if x.is_floating_point() else x.clamp(min=0)
OPS["silu"] = F.silu
OPS["softplus"] = F.softplus
OPS["gelu"] = F.gelu
OPS["cast"] = lambda x, dtype: x.to(DTYPES[dtype])


def wrap(value, dtype):
    bits = torch.iinfo(dtype).bits
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype != torch.uint8 and value >> (bits - 1) else value


def on_integers(function, floats):
    """Integers one by one in Python, so that no C++ decides what a division by zero or an overflow gives."""

    def apply(a, b):
        if a.is_floating_point():
            return floats(a, b)
        a, b = torch.broadcast_tensors(a, b)
        pairs = zip(a.flatten().tolist(), b.flatten().tolist())
        return torch.tensor([wrap(function(x, y), a.dtype) for x, y in pairs], dtype=a.dtype).reshape(a.shape)

    return apply


def truncated(x, y):
    return 0 if y == 0 else (abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1)


OPS["div"] = on_integers(truncated, torch.div)
OPS["floor_divide"] = on_integers(lambda x, y: 0 if y == 0 else x // y, partial(torch.div, rounding_mode="floor"))
OPS["remainder"] = on_integers(lambda x, y: 0 if y == 0 else x % y, torch.remainder)
OPS["pow"] = on_integers(pow, torch.pow)


def derivative(function):
    """(operands..., g) → the cotangents of the operands that are floats, for the cotangent(s) g."""

    def apply(operands, cotangents):
        operands = [x if x.requires_grad or not x.is_floating_point() else x.detach().requires_grad_() for x in operands]
        results = function(*operands)
        results = results if isinstance(results, tuple) else (results,)
        pairs = [(r, g) for r, g in zip(results, cotangents) if g is not None]
        floats = [x for x in operands if x.is_floating_point()]
        found = torch.autograd.grad([r for r, _ in pairs], floats, [g for _, g in pairs], create_graph=True, allow_unused=True)
        found = tuple(torch.zeros_like(x) if g is None else g for x, g in zip(floats, found))
        return found if len(found) > 1 else found[0]

    return apply


OPS["silu_grad"] = lambda x, g: derivative(F.silu)([x], [g])
OPS["gelu_grad"] = lambda x, g, approximate: derivative(lambda x: F.gelu(x, approximate=approximate))([x], [g])

# --- reductions ----------------------------------------------------------------------------------------------------


def over_dims(function):
    """No dims means no reduction, where PyTorch reads it as all."""
    return lambda x, dims, keepdim: function(x, dims, keepdim) if dims else x


@op
def prod(x, dims, keepdim):
    for dim in reversed(dims):
        x = torch.prod(x, dim, keepdim=keepdim, **({} if x.is_floating_point() else {"dtype": x.dtype}))
    return x


def first_index(function):
    """NumPy's, of which the first index on ties and of a NaN is documented."""

    def apply(x, dim, keepdim):
        found = torch.from_numpy(np.asarray(function(x.detach().numpy(), axis=dim))).to(torch.int32)
        return found.unsqueeze(dim) if keepdim else found

    return apply


OPS["sum"] = over_dims(lambda x, dims, keepdim: torch.sum(x, dims, keepdim=keepdim, dtype=x.dtype))
OPS["max"] = over_dims(lambda x, dims, keepdim: torch.amax(x, dims, keepdim=keepdim))
OPS["min"] = over_dims(lambda x, dims, keepdim: torch.amin(x, dims, keepdim=keepdim))
OPS["mean"] = over_dims(lambda x, dims, keepdim: torch.mean(x, dims, keepdim=keepdim))
OPS["logsumexp"] = lambda x, dims, keepdim: torch.logsumexp(x, dims, keepdim=keepdim) if dims else x
OPS["argmax"] = first_index(np.argmax)
OPS["argmin"] = first_index(np.argmin)


@op
def cumsum(x, dim, reverse):
    if reverse:
        return cumsum(x.flip(dim), dim, False).flip(dim)
    return torch.cumsum(x, dim, dtype=x.dtype)


# --- contraction and views -----------------------------------------------------------------------------------------


@op
def dot_general(a, b, lhs_contract, rhs_contract, lhs_batch, rhs_batch):
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    in_a, in_b, out = [None] * a.dim(), [None] * b.dim(), []
    for dims_a, dims_b, kept in ((lhs_batch, rhs_batch, True), (lhs_contract, rhs_contract, False)):
        for i, j in zip(dims_a, dims_b):
            in_a[i] = in_b[j] = next(letters)
            out += [in_a[i]] * kept
    for letters_in in (in_a, in_b):
        for i, letter in enumerate(letters_in):
            if letter is None:
                letters_in[i] = next(letters)
                out.append(letters_in[i])
    equation = f"{''.join(in_a)},{''.join(in_b)}->{''.join(out)}"
    if a.is_floating_point():
        return torch.einsum(equation, a, b)
    return torch.einsum(equation, a.long(), b.long()).to(a.dtype)


OPS["reshape"] = lambda x, shape: x.reshape(shape)
OPS["transpose"] = lambda x, perm: x.permute(perm)
OPS["broadcast_to"] = lambda x, shape: x.expand(shape)
OPS["flip"] = lambda x, dims: x.flip(dims)
OPS["concat"] = lambda *parts, dim: torch.cat(parts, dim)
OPS["slice"] = lambda x, starts, limits, steps: x[tuple(slice(*each) for each in zip(starts, limits, steps))]


@op
def pad(x, low, high, interior, value):
    shape = [lo + n + max(n - 1, 0) * gap + hi for n, lo, hi, gap in zip(x.shape, low, high, interior)]
    out = torch.full(shape, float(value), dtype=torch.float64).to(x.dtype)
    out[tuple(slice(lo, lo + max((n - 1) * (gap + 1) + 1, 0), gap + 1) for n, lo, gap in zip(x.shape, low, interior))] = x
    return out


# --- indexing and ordering -----------------------------------------------------------------------------------------


@op
def index_select(x, index, dim):
    shape = [*x.shape[:dim], *index.shape, *x.shape[dim + 1 :]]
    return torch.index_select(x, dim, index.flatten()).reshape(shape)


@op
def index_add(base, index, updates, dim):
    shape = [*base.shape[:dim], index.numel(), *base.shape[dim + 1 :]]
    return base.index_add(dim, index.flatten(), updates.reshape(shape))


OPS["gather"] = lambda x, index, dim: torch.gather(x, dim, index.long())
OPS["scatter_add"] = lambda base, index, updates, dim: base.scatter_add(dim, index.long(), updates)


@op
def sort(x, dim, descending):
    values, indices = torch.sort(x, dim=dim, descending=descending, stable=True)
    return values, indices.int()


@op
def topk(x, k, dim, largest):
    """The first k of a stable sort, since torch.topk leaves ties open."""
    values, indices = sort(x, dim, largest)
    return values.narrow(dim, 0, k), indices.narrow(dim, 0, k)


# --- fused kernels -------------------------------------------------------------------------------------------------

OPS["softmax"] = lambda x: torch.softmax(x, -1)
OPS["log_softmax"] = lambda x: torch.log_softmax(x, -1)
OPS["softmax_grad"] = lambda y, g: y * (g - (y * g).sum(-1, keepdim=True))
OPS["log_softmax_grad"] = lambda y, g: g - y.exp() * g.sum(-1, keepdim=True)


def rms_norm(x, w, eps):
    return F.rms_norm(x, w.shape, w, eps)


def layer_norm(x, w, b, eps):
    return F.layer_norm(x, w.shape, w, b, eps)


OPS["rms_norm"] = rms_norm
OPS["layer_norm"] = layer_norm
OPS["rms_norm_grad"] = lambda x, w, g, eps: derivative(lambda x, w: rms_norm(x, w, eps))([x, w], [g])
OPS["layer_norm_grad"] = lambda x, w, g, eps: (
    derivative(lambda x, w, b: layer_norm(x, w, b, eps))([x, w, torch.zeros_like(w)], [g])
)


@op
def rope(x, cos, sin, interleaved, inverse):
    sin = -sin if inverse else sin
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    turned = a * cos - b * sin, b * cos + a * sin
    return torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)


@op
def attention(q, k, v, *extras, causal, offset, scale, window):
    bias, extras = (extras[0], extras[1:]) if extras and extras[0].ndim == 4 else (None, extras)
    segments, shift = extras[:2] if len(extras) >= 2 else None, extras[-1] if len(extras) % 2 else None
    offset += 0 if shift is None else shift.item()
    length, keys = q.shape[2], k.shape[2]
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    key, position = torch.arange(keys), torch.arange(length)[:, None] + offset
    seen = torch.ones(length, keys).bool()
    scores = scale * (q @ k.mT)
    if bias is not None:
        hides = ~bias if bias.dtype == torch.bool else bias == -math.inf
        seen = seen & ~hides
        # Held against no -inf, so that no NaN enters the gradient.
        scores = scores + (0 if bias.dtype == torch.bool else bias.masked_fill(hides, 0))
    if causal:
        seen = seen & (key <= position)
    if window > 0:
        seen = seen & (key > position - window)
    if segments:
        seen = seen & (segments[0][:, None, :, None] == segments[1][:, None, None, :])
    some = seen.any(-1)
    # Rows that see nothing are given scores of 0, so that no NaN enters the gradient, and are masked after.
    weights = scores.masked_fill(~seen, -math.inf)
    scores = weights.masked_fill(~some[..., None], 0)
    out = torch.softmax(scores, -1).masked_fill(~some[..., None], 0) @ v
    lse = torch.logsumexp(scores, -1).masked_fill(~some, -math.inf)
    if some.all() and out.numel() > 0:
        torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, weights - scale * (q @ k.mT), scale=scale))
    return out, lse


@op
def attention_grad(q, k, v, out, lse, dout, *more, **attrs):
    dlse, *extras = more if more and more[0].ndim == 3 else (None, *more)
    return derivative(lambda q, k, v: attention(q, k, v, *extras, **attrs))([q, k, v], [dout, dlse])


@op
def attention_bias_grad(q, k, v, out, lse, dout, *more, **attrs):
    dlse, bias, *extras = more if more[0].ndim == 3 else (None, *more)
    return derivative(lambda q, k, v, bias: attention(q, k, v, bias, *extras, **attrs))([q, k, v, bias], [dout, dlse])


@op
def cross_entropy(logits, target, ignore_index, label_smoothing):
    loss = F.cross_entropy(
        logits, target.long(), reduction="none", ignore_index=ignore_index, label_smoothing=label_smoothing
    )
    return loss, torch.logsumexp(logits, -1)


@op
def cross_entropy_grad(logits, target, lse, g, **attrs):
    return derivative(lambda logits, target: cross_entropy(logits, target, **attrs))([logits, target], [g])


@op
def linear_cross_entropy(x, weight, target, **attrs):
    by_row = cross_entropy(x.flatten(0, -2) @ weight.mT, target.flatten(), **attrs)
    return tuple(row.reshape(target.shape) for row in by_row)


@op
def linear_cross_entropy_grad(x, weight, target, g, need_x, need_weight, **attrs):
    loss, lse = linear_cross_entropy(x, weight, target, **attrs)
    both = derivative(lambda x, weight, target: linear_cross_entropy(x, weight, target, **attrs))
    dx, dweight = both([x, weight, target], [g, None])
    none = x.new_zeros(0)
    return loss, lse, dx if need_x else none, dweight if need_weight else none


@op
def adamw_update(p, g, m, v, lr, step, grad_scale=None, skip=None, *, beta1, beta2, eps, weight_decay, decoupled):
    if skip is not None and skip.item():
        return p, m, v
    parameter = p.clone().requires_grad_()
    parameter.grad = g if grad_scale is None else g * grad_scale
    optimizer = (torch.optim.AdamW if decoupled else torch.optim.Adam)(
        [parameter], lr=lr.item(), betas=(beta1, beta2), eps=eps, weight_decay=weight_decay
    )
    state = {"step": torch.tensor(step.item() - 1), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    optimizer.state[parameter].update(state)
    optimizer.step()
    return parameter.detach(), state["exp_avg"], state["exp_avg_sq"]
