#include "fuse_emit.h"

#include <algorithm>
#include <cstring>

namespace lazuli {
namespace {

std::optional<TileOp> tileOp(Op op) {
  switch (op) {
#define LAZULI_SAME_NAME(name) \
  case Op::name:               \
    return TileOp::name;
    LAZULI_TILE_UNARY_A(LAZULI_SAME_NAME)
    LAZULI_TILE_UNARY_F(LAZULI_SAME_NAME)
    LAZULI_TILE_UNARY_BOOL(LAZULI_SAME_NAME)
    LAZULI_TILE_BINARY_A(LAZULI_SAME_NAME)
    LAZULI_TILE_BINARY_F(LAZULI_SAME_NAME)
    LAZULI_TILE_BINARY_BOOL(LAZULI_SAME_NAME)
#undef LAZULI_SAME_NAME
    case Op::where:
      return TileOp::where;
    default:
      return std::nullopt;
  }
}

/// A number as a lane's bytes. Halves are rounded by the caller's cast.
uint64_t laneBits(Lane lane, double number) {
  const auto whole = [&] {
    return number >= 0x1p63 || !(number >= -0x1p63) ? 0 : static_cast<int64_t>(number);
  };
  switch (lane) {
    case Lane::f32:
      return __builtin_bit_cast(uint32_t, static_cast<float>(number));
    case Lane::f64:
      return __builtin_bit_cast(uint64_t, number);
    case Lane::i32:
      return static_cast<uint32_t>(whole());
    case Lane::i64:
      return static_cast<uint64_t>(whole());
    case Lane::u8:
      return static_cast<uint8_t>(whole());
  }
  return 0;
}

}  // namespace

SpecBuilder::SpecBuilder(const Fusion& fusion, Dims space, const std::vector<int32_t>& members,
                         FusedUnit& unit)
    : fusion_(fusion), unit_(unit) {
  spec.space = std::move(space);
  for (int32_t member : members) members_.push_back(fusion.node(member).results[0]);
  std::sort(members_.begin(), members_.end());
}

uint32_t SpecBuilder::readBuffer(ValueId value) {
  auto& reads = unit_.reads;
  const auto found = std::find(reads.begin(), reads.end(), value);
  if (found == reads.end()) reads.push_back(value);
  return static_cast<uint32_t>(std::find(reads.begin(), reads.end(), value) - reads.begin());
}

uint32_t SpecBuilder::write(ValueId value) {
  unit_.writes.push_back(value);
  return static_cast<uint32_t>(unit_.writes.size()) - 1;
}

Layout SpecBuilder::layoutOf(ValueId base, const ViewSteps& steps) const {
  auto layout = viewed(steps, fusion_.layouts[base]);
  if (layout) layout = viewed(reshapeTo(spec.space), *layout);
  if (!layout) throw ProgramError("a view that strides cannot express reached a fused kernel");
  return std::move(*layout);
}

int SpecBuilder::add(Value value) {
  std::vector<int64_t> key = {static_cast<int64_t>(value.kind),
                              static_cast<int64_t>(value.lane),
                              static_cast<int64_t>(value.op),
                              value.args[0],
                              value.args[1],
                              value.args[2],
                              static_cast<int64_t>(value.bits),
                              static_cast<int64_t>(value.layout.dtype),
                              value.layout.offset,
                              value.read,
                              value.keyOffset,
                              value.keyStride,
                              value.first,
                              value.firstOffset,
                              static_cast<int64_t>(value.stream)};
  key.insert(key.end(), value.layout.strides.begin(), value.layout.strides.end());
  for (const PadWindow& window : value.pad) key.insert(key.end(), {window.low, window.step, window.count});
  const auto [entry, fresh] = known_.try_emplace(std::move(key), static_cast<int>(spec.values.size()));
  if (fresh) spec.values.push_back(std::move(value));
  return entry->second;
}

int SpecBuilder::op(TileOp op, Lane lane, std::initializer_list<int> args) {
  Value value;
  value.kind = Value::Kind::op;
  value.op = op;
  value.lane = lane;
  std::copy(args.begin(), args.end(), value.args);
  return add(std::move(value));
}

int SpecBuilder::constant(DType dtype, double number) {
  Value value;
  value.lane = laneOf(dtype);
  value.bits = laneBits(value.lane, dtype == DType::boolean ? number != 0 : number);
  const int made = add(std::move(value));
  if (dtype == DType::bf16) return op(TileOp::round_bf16, Lane::f32, {made});
  if (dtype == DType::f16) return op(TileOp::round_f16, Lane::f32, {made});
  return made;
}

int SpecBuilder::scalar(const Node& node) {
  const DType dtype = fusion_.program.type(node.results[0]).dtype;
  if (node.op == Op::full) return constant(dtype, node.number(attr::full::value));
  const auto& bytes = node.bytes(attr::constant::data);
  Value value;
  value.lane = laneOf(dtype);
  std::memcpy(&value.bits, bytes.data(), std::min(bytes.size(), sizeof value.bits));
  if (dtype == DType::bf16) value.bits <<= 16;
  if (dtype == DType::f16) {
    float number;
    const uint16_t half = static_cast<uint16_t>(value.bits);
    tileTable().load[static_cast<int>(DType::f16)](&number, &half, 1, 1);
    value.bits = __builtin_bit_cast(uint32_t, number);
  }
  return add(std::move(value));
}

/// Half types compute in float32 inside a kernel, unrounded, but a cast to another type sees the half value.
int SpecBuilder::rounded(int value, DType dtype) {
  const Value& made = spec.values[static_cast<size_t>(value)];
  if (made.kind != Value::Kind::op) return value;
  if (dtype == DType::bf16 && made.op != TileOp::round_bf16)
    return op(TileOp::round_bf16, Lane::f32, {value});
  if (dtype == DType::f16 && made.op != TileOp::round_f16) return op(TileOp::round_f16, Lane::f32, {value});
  return value;
}

int SpecBuilder::cast(int value, DType from, DType to) {
  const Lane source = laneOf(from), lane = laneOf(to);
  if (to == DType::boolean) return from == DType::boolean ? value : op(TileOp::to_bool, lane, {value});
  if (source != lane) {
    Value result;
    result.kind = Value::Kind::cast;
    result.lane = lane;
    result.args[0] = value;
    value = add(std::move(result));
  }
  // Bytes are exact in both half types.
  if (from == to || source == Lane::u8) return value;
  if (to == DType::bf16) return op(TileOp::round_bf16, lane, {value});
  if (to == DType::f16) return op(TileOp::round_f16, lane, {value});
  return value;
}

int SpecBuilder::read(ValueId base, const ViewSteps& steps) {
  if (fusion_.inlined[base]) return evaluate(fusion_.producer(base), steps);
  if (std::binary_search(members_.begin(), members_.end(), base) && !isReduction(fusion_.producer(base).op) &&
      fusion_.isLinear(base, steps)) {
    const auto found = made_.find(base);
    if (found != made_.end()) return found->second;
    return made_[base] = evaluate(fusion_.producer(base), canonical());
  }
  Value value;
  value.kind = Value::Kind::load;
  value.layout = layoutOf(base, steps);
  value.lane = laneOf(value.layout.dtype);
  value.read = readBuffer(base);
  return add(std::move(value));
}

int SpecBuilder::evaluate(const Node& node, const ViewSteps& steps) {
  if (node.op == Op::full || node.op == Op::constant) return scalar(node);
  if (info(node.op).lower == LowerKind::source) return source(node, steps);
  if (node.op == Op::pad) return pad(node);
  std::vector<int> args;
  for (uint32_t k = 0; k < node.operands.size(); k++) {
    ViewSteps path = fusion_.stepsOf(node, k);
    path.insert(path.end(), steps.begin(), steps.end());
    args.push_back(read(fusion_.sources[node.operands[k]].base, path));
  }
  if (isReduction(node.op) || node.op == Op::reshape) return args[0];
  return elementwise(node, args);
}

int SpecBuilder::elementwise(const Node& node, const std::vector<int>& args) {
  const DType from = fusion_.program.type(node.operands.back()).dtype;
  const DType to = fusion_.program.type(node.results[0]).dtype;
  if (node.op == Op::cast) return cast(rounded(args[0], from), from, to);
  if (node.op == Op::pow && isFloat(from)) return power(node, args);
  if (node.op == Op::gelu || node.op == Op::gelu_grad) {
    const bool tanh = node.op == Op::gelu ? node.integer(attr::gelu::approximate) != 0
                                          : node.integer(attr::gelu_grad::approximate) != 0;
    if (node.op == Op::gelu) return op(tanh ? TileOp::gelu_tanh : TileOp::gelu_erf, laneOf(to), {args[0]});
    return op(tanh ? TileOp::gelu_tanh_grad : TileOp::gelu_erf_grad, laneOf(to), {args[0], args[1]});
  }
  const std::optional<TileOp> tile = tileOp(node.op);
  if (!tile) throw ProgramError(std::string(info(node.op).name) + ": the CPU has no kernel for this op");
  switch (args.size()) {
    case 1:
      return op(*tile, laneOf(to), {args[0]});
    case 2:
      return op(*tile, laneOf(to), {args[0], args[1]});
    default:
      return op(*tile, laneOf(to), {args[0], args[1], args[2]});
  }
}

/// Powers that are products or roots are far cheaper as such.
int SpecBuilder::power(const Node& node, const std::vector<int>& args) {
  const Lane lane = laneOf(fusion_.program.type(node.results[0]).dtype);
  const Value& exponent = spec.values[static_cast<size_t>(args[1])];
  if (exponent.kind == Value::Kind::constant) {
    const double number = lane == Lane::f64 ? __builtin_bit_cast(double, exponent.bits)
                                            : __builtin_bit_cast(float, static_cast<uint32_t>(exponent.bits));
    if (number == 1) return args[0];
    if (number == 2) return op(TileOp::square, lane, {args[0]});
    if (number == 3) return op(TileOp::mul, lane, {op(TileOp::square, lane, {args[0]}), args[0]});
    if (number == -1) return op(TileOp::reciprocal, lane, {args[0]});
  }
  return op(TileOp::pow, lane, {args[0], args[1]});
}

int SpecBuilder::source(const Node& node, const ViewSteps& steps) {
  const TensorType& type = fusion_.program.type(node.results[0]);
  Value value;
  if (node.op == Op::iota) {
    value.kind = Value::Kind::index;
    value.lane = Lane::i64;
  } else {
    value.kind = node.op == Op::random_normal ? Value::Kind::normal : Value::Kind::uniform;
    value.lane = Lane::f32;
    const bool normal = node.op == Op::random_normal;
    value.stream = static_cast<uint64_t>(
        node.integer(normal ? attr::random_normal::stream : attr::random_uniform::stream));
    const Source& key = fusion_.sources[node.operands[0]];
    const auto layout = viewed(key.steps, fusion_.layouts[key.base]);
    value.keyOffset = layout->offset;
    value.keyStride = layout->strides[0];
    value.read = readBuffer(key.base);
    if (node.operands.size() > 1) {
      const Source& first = fusion_.sources[node.operands[1]];
      value.firstOffset = viewed(first.steps, fusion_.layouts[first.base])->offset;
      value.first = static_cast<int>(readBuffer(first.base));
    }
  }
  auto layout = viewed(steps, elementNumbers(fusion_.program, node));
  if (layout) layout = viewed(reshapeTo(spec.space), *layout);
  if (!layout) throw ProgramError("a view that strides cannot express reached a fused kernel");
  value.layout = std::move(*layout);
  const DType made = node.op == Op::iota ? DType::i64 : DType::f32;
  return cast(add(std::move(value)), made, type.dtype);
}

/// A pad is only ever a member: the space splits its dims, and none that is padded.
int SpecBuilder::pad(const Node& node) {
  const TensorType& type = fusion_.program.type(node.results[0]);
  const Source& from = fusion_.sources[node.operands[0]];
  const auto operand = viewed(from.steps, fusion_.layouts[from.base]);
  const double number = node.number(attr::pad::value);
  if (operand->elements() == 0 || type.elements() == 0) return constant(type.dtype, number);
  const Dims& low = node.ints(attr::pad::low);
  const Dims& interior = node.ints(attr::pad::interior);
  Value value;
  value.kind = Value::Kind::load;
  value.lane = laneOf(type.dtype);
  value.bits = laneBits(value.lane, type.dtype == DType::boolean ? number != 0 : number);
  value.read = readBuffer(from.base);
  value.layout = {type.dtype, spec.space, {}, operand->offset};
  // The space's dims are factors of the node's: those of a padded dim are the dim itself.
  size_t next = 0;
  for (size_t dim = 0; dim < type.shape.size(); dim++) {
    const bool padded = low[dim] != 0 || node.ints(attr::pad::high)[dim] != 0 || interior[dim] != 0;
    int64_t left = type.shape[dim];
    while (left != 1) {
      const int64_t extent = spec.space[next++];
      left /= extent;
      value.layout.strides.push_back(operand->strides[dim] * left);
      value.pad.push_back(padded ? PadWindow{low[dim], interior[dim] + 1, operand->shape[dim]}
                                 : PadWindow{0, 1, extent});
    }
  }
  return add(std::move(value));
}

}  // namespace lazuli
