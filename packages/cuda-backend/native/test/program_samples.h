#pragma once

#include "program_writer.h"

namespace lazuli::test {

/// A program that holds every op with operands that suit it, several dtypes and odd shapes. Where not
/// everything is an output, much of it is unused.
inline Words everyOp(bool allOutputs = false) {
  using W = ProgramWriter;
  W w;
  const TensorType x34 = f32({3, 4}), x4 = f32({4}), scalar = f32({});
  const TensorType b34 = type(DType::boolean, {3, 4}), i34 = type(DType::i32, {3, 4});
  auto x = w.input(x34), y = w.input(x34, true), row = w.input(x4), s = w.input(scalar);
  auto key = w.input(type(DType::i64, {2})), index = w.input(type(DType::i64, {5})), at = w.input(i34);
  auto half = w.input(type(DType::bf16, {2, 4, 6, 8}), true),
       group = w.input(type(DType::bf16, {2, 2, 5, 8}));

  auto shapeAnd = [](const Words& before, const Dims& shape, DType dtype) {
    return W::join({before, W::ints(shape), W::word(static_cast<uint32_t>(dtype))});
  };
  auto named = w.node(Op::input, {}, x34, shapeAnd(W::integer(0), {3, 4}, DType::f32));
  auto detached = w.node(Op::detach, {named}, x34);
  std::vector<uint8_t> data = {1, 0, 0, 1, 1};
  w.node(Op::constant, {}, type(DType::boolean, {5}),
         W::join({shapeAnd({}, {5}, DType::boolean), W::bytes(data)}));
  w.node(Op::full, {}, x34, shapeAnd(W::real(2.5), {3, 4}, DType::f32));
  w.node(Op::iota, {}, i34, shapeAnd(W::integer(1), {3, 4}, DType::i32));
  auto drawn = [&](int64_t stream, const Dims& shape, const Dims& whole, DType dtype) {
    return shapeAnd(W::join({W::integer(stream), W::ints(shape)}), whole, dtype);
  };
  auto first = w.input(type(DType::i64, {}));
  w.node(Op::random_uniform, {key}, x34, drawn(7, {3, 4}, {3, 4}, DType::f32));
  w.node(Op::random_uniform, {key, first}, x34, drawn(7, {3, 4}, {9, 7}, DType::f32));
  w.node(Op::random_normal, {key}, type(DType::f16, {0, 3}), drawn(8, {0, 3}, {0, 3}, DType::f16));

  auto cond = w.node(Op::lt, {x, row}, b34);
  for (uint32_t code = 0; code < kOpCount; code++) {
    Op op = static_cast<Op>(code);
    const OpInfo& meta = info(op);
    if (meta.lower != LowerKind::elementwise || op == Op::cast || op == Op::where) continue;
    bool logical =
        op == Op::logical_not || op == Op::logical_and || op == Op::logical_or || op == Op::logical_xor;
    bool predicate =
        op == Op::isnan || op == Op::isinf || op == Op::isfinite || (Op::eq <= op && op <= Op::ge);
    W::Ref first = logical ? cond : detached, second = logical ? cond : y;
    std::vector<W::Ref> operands = {first};
    if (meta.leastOperands == 2) operands.push_back(second);
    w.node(op, operands, logical || predicate ? b34 : x34, Words(meta.attrCount, 1));
  }
  auto cast = w.node(Op::cast, {x}, type(DType::f64, {3, 4}), W::word(static_cast<uint32_t>(DType::f64)));
  w.node(Op::where, {cond, x, s}, x34);

  for (Op op : {Op::sum, Op::prod, Op::max, Op::min}) {
    w.node(op, {cast}, type(DType::f64, {4}), W::join({W::ints({0}), W::word(0)}));
  }
  w.node(Op::argmax, {x}, type(DType::i32, {3, 1}), W::join({W::integer(1), W::word(1)}));
  w.node(Op::argmin, {x}, type(DType::i32, {4}), W::join({W::integer(0), W::word(0)}));
  w.node(Op::barrier, {x}, x34);
  w.node(Op::cumsum, {x}, x34, W::join({W::integer(1), W::word(1)}));
  w.node(Op::dot_general, {x, y}, f32({3, 3}),
         W::join({W::ints({1}), W::ints({1}), W::ints({}), W::ints({})}));
  w.node(Op::dot_general, {x, y}, f32({3}),
         W::join({W::ints({1}), W::ints({1}), W::ints({0}), W::ints({0})}));

  w.node(Op::reshape, {x}, f32({2, 6}), W::ints({2, 6}));
  w.node(Op::transpose, {x}, f32({4, 3}), W::ints({1, 0}));
  w.node(Op::broadcast_to, {row}, f32({2, 3, 4}), W::ints({2, 3, 4}));
  w.node(Op::slice, {x}, f32({2, 2}), W::join({W::ints({1, 0}), W::ints({3, 4}), W::ints({1, 3})}));
  w.node(Op::flip, {x}, x34, W::ints({1}));
  w.node(Op::pad, {x}, f32({6, 8}), W::join({W::ints({1, 0}), W::ints({2, 1}), W::ints({0, 1}), W::real(0)}));
  w.node(Op::concat, {x, y, x}, f32({9, 4}), W::integer(0));

  auto picked = w.node(Op::index_select, {x, index}, f32({5, 4}), W::integer(0));
  w.node(Op::index_add, {y, index, picked}, x34, W::integer(0));
  auto gathered = w.node(Op::gather, {x, at}, x34, W::integer(0));
  w.node(Op::scatter_add, {x, at, gathered}, x34, W::integer(1));
  auto sorted = w.nodeOf(Op::sort, {x}, {x34, i34}, W::join({W::integer(1), W::word(1)}));
  w.result(sorted, 0, x34);
  auto top = w.nodeOf(Op::topk, {x}, {f32({3, 2}), type(DType::i32, {3, 2})},
                      W::join({W::integer(2), W::integer(1), W::word(1)}));
  auto best = w.result(top, 1, type(DType::i32, {3, 2}));

  auto soft = w.node(Op::softmax, {x}, x34);
  auto logsoft = w.node(Op::log_softmax, {x}, x34);
  w.node(Op::softmax_grad, {soft, x}, x34);
  w.node(Op::log_softmax_grad, {logsoft, x}, x34);
  w.node(Op::rms_norm, {x, row}, x34, W::real(1e-5));
  w.result(w.nodeOf(Op::rms_norm_grad, {x, row, y}, {x34, x4}, W::real(1e-5)), 0, x34);
  w.node(Op::layer_norm, {x, row, row}, x34, W::real(1e-5));
  w.result(w.nodeOf(Op::layer_norm_grad, {x, row, y}, {x34, x4, x4}, W::real(1e-5)), 0, x34);
  auto angles = w.node(Op::full, {}, f32({6, 4}), shapeAnd(W::real(1), {6, 4}, DType::f32));
  w.node(Op::rope, {half, angles, angles}, type(DType::bf16, {2, 4, 6, 8}), {1, 0});

  const TensorType q = type(DType::bf16, {2, 4, 6, 8}), k = type(DType::bf16, {2, 2, 5, 8}),
                   lse = f32({2, 4, 6});
  Words attention = W::join({W::word(1), W::integer(-1), W::real(0.35), W::integer(3)});
  auto attended = w.nodeOf(Op::attention, {half, group, group}, {q, lse}, attention);
  auto out = w.result(attended, 0, q), rows = w.result(attended, 1, lse);
  auto grads = w.nodeOf(Op::attention_grad, {half, group, group, out, rows, out, rows}, {q, k, k}, attention);
  auto shift = w.node(Op::full, {}, type(DType::i32, {}), shapeAnd(W::real(2), {}, DType::i32));
  w.nodeOf(Op::attention, {half, group, group, shift}, {q, lse}, attention);
  w.nodeOf(Op::attention_grad, {half, group, group, out, rows, out, shift}, {q, k, k}, attention);
  w.nodeOf(Op::attention_grad, {half, group, group, out, rows, out, rows, shift}, {q, k, k}, attention);
  auto queryIds = w.node(Op::full, {}, type(DType::i32, {2, 6}), shapeAnd(W::real(1), {2, 6}, DType::i32)),
       keyIds = w.node(Op::full, {}, type(DType::i32, {2, 5}), shapeAnd(W::real(1), {2, 5}, DType::i32));
  w.nodeOf(Op::attention, {half, group, group, queryIds, keyIds}, {q, lse}, attention);
  w.nodeOf(Op::attention_grad, {half, group, group, out, rows, out, rows, queryIds, keyIds, shift}, {q, k, k},
           attention);
  auto bias = w.node(Op::full, {}, f32({1, 4, 6, 1}), shapeAnd(W::real(1), {1, 4, 6, 1}, DType::f32)),
       mask = w.node(Op::full, {}, type(DType::boolean, {2, 1, 1, 5}),
                     shapeAnd(W::real(1), {2, 1, 1, 5}, DType::boolean));
  w.nodeOf(Op::attention, {half, group, group, bias, queryIds, keyIds, shift}, {q, lse}, attention);
  w.nodeOf(Op::attention_grad, {half, group, group, out, rows, out, rows, mask}, {q, k, k}, attention);
  w.nodeOf(Op::attention_bias_grad, {half, group, group, out, rows, out, bias, queryIds, keyIds},
           {q, k, k, f32({1, 4, 6, 1})}, attention);
  auto target = w.node(Op::full, {}, type(DType::i32, {3}), shapeAnd(W::real(1), {3}, DType::i32));
  Words entropy = W::join({W::integer(-100), W::real(0.1)});
  auto loss = w.nodeOf(Op::cross_entropy, {x, target}, {f32({3}), f32({3})}, entropy);
  auto losses = w.result(loss, 0, f32({3})), totals = w.result(loss, 1, f32({3}));
  w.node(Op::cross_entropy_grad, {x, target, totals, losses}, x34, entropy);
  auto classes = w.node(Op::full, {}, f32({5, 4}), shapeAnd(W::real(0.5), {5, 4}, DType::f32));
  w.nodeOf(Op::linear_cross_entropy, {x, classes, target}, {f32({3}), f32({3})}, entropy);
  w.nodeOf(Op::linear_cross_entropy_grad, {x, classes, target, losses}, {f32({3}), f32({3}), x34, f32({0})},
           W::join({entropy, W::word(1), W::word(0)}));
  Words adam = W::join({W::real(0.9), W::real(0.95), W::real(1e-8), W::real(0.1), W::word(1)});
  auto step = w.nodeOf(Op::adamw_update, {x, y, x, y, s, s, s}, {x34, x34, x34}, adam);

  // Over a mesh of one device, so that any device takes them.
  const Words mesh = W::join({W::ints({1, 1}), W::ints({1, 0})});
  const TensorType d34 = type(DType::f64, {3, 4});
  w.node(Op::all_reduce, {cast}, d34, W::join({mesh, W::word(2)}));
  w.node(Op::all_gather, {x}, x34, W::join({mesh, W::integer(1)}));
  w.node(Op::reduce_scatter, {x}, x34, W::join({mesh, W::word(0), W::integer(0)}));
  w.node(Op::all_to_all, {x}, x34, W::join({mesh, W::integer(1), W::integer(0)}));
  w.node(Op::collective_permute, {x}, x34, W::join({mesh, W::ints({0, 0})}));
  w.node(Op::shard_slice, {x}, f32({3, 5}), W::join({mesh, W::integer(1), W::integer(5)}));
  w.node(Op::axis_index, {}, type(DType::i32, {}), mesh);
  w.done(w.started(Op::all_gather, x, x34, W::join({mesh, W::integer(1)})), x, x34);

  for (W::Ref ref : {w.result(step, 0, x34), losses, best, w.result(grads, 1, k), y, named}) w.output(ref);
  if (allOutputs) w.outputEverything();
  return w.words();
}

}  // namespace lazuli::test
