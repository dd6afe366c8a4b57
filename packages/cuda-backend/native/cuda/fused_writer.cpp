#include "cuda/fused_writer.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace lazuli::cuda {
namespace {

std::string str(int64_t number) { return std::to_string(number); }

std::string hex(const char* format, double number) {
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, format, number);
  return buffer;
}

/// What a tile op's body is called in kernels/scalar.h.
std::string function(TileOp op) {
  switch (op) {
    case TileOp::to_bool:
      return "to_bool";
    case TileOp::round_bf16:
      return "round_bf16";
    case TileOp::round_f16:
      return "round_f16";
    default:
      return name(op);
  }
}

}  // namespace

std::vector<size_t> dimRange(size_t from, size_t to) {
  std::vector<size_t> range;
  for (size_t dim = from; dim < to; dim++) range.push_back(dim);
  return range;
}

std::string numbered(const char* prefix, int64_t number) {
  std::string text = prefix;
  text += std::to_string(number);
  return text;
}

const char* lane(Lane lane) {
  constexpr const char* names[kLanes] = {"float", "double", "int32_t", "int64_t", "uint8_t"};
  return names[static_cast<int>(lane)];
}

const char* memory(DType dtype) {
  constexpr const char* names[kDTypes] = {"float",   "double",  "BFloat16", "Float16",
                                          "int32_t", "int64_t", "uint8_t",  "uint8_t"};
  return names[static_cast<int>(dtype)];
}

FusedWriter::FusedWriter(const FusedGrid& grid) : grid_(grid), live_(grid.plan.spec.values.size(), false) {
  const FusedSpec& spec = grid.plan.spec;
  for (const auto& store : spec.stores) live_[static_cast<size_t>(store.value)] = true;
  for (const auto& reduce : spec.reduces) live_[static_cast<size_t>(reduce.value)] = true;
  for (size_t i = spec.values.size(); i-- > 0;)
    for (int arg : spec.values[i].args)
      if (live_[i] && arg >= 0) live_[static_cast<size_t>(arg)] = true;
}

void FusedWriter::line(const std::string& text) {
  if (text[0] != '#') text_.append(static_cast<size_t>(depth_) * 2, ' ');
  text_ += text + "\n";
}
void FusedWriter::open(const std::string& head) {
  line(head + (head.empty() ? "{" : " {"));
  depth_++;
}
void FusedWriter::close() {
  depth_--;
  line("}");
}
void FusedWriter::each(const char* name, int times, const std::function<void()>& body) {
  if (times == 1) {
    open("");
    line(std::string("constexpr int ") + name + " = 0;");
  } else {
    line("#pragma unroll");
    open(std::string("for (int ") + name + " = 0; " + name + numbered(" < ", times) + "; " + name + "++)");
  }
  body();
  close();
}

std::string FusedWriter::count(int64_t number) const { return str(number) + (grid_.wideIndex ? "ull" : "u"); }

std::string FusedWriter::buffer(const PrintedFused::Buffer& buffer) {
  size_t at = 0;
  while (at < buffers_.size() && buffers_[at] != buffer) at++;
  if (at == buffers_.size()) buffers_.push_back(buffer);
  return numbered("args.at[", at) + "]";
}

std::string FusedWriter::vectorType(int number) const {
  const int width = how(number).kind == AccessKind::vector ? how(number).width : 1;
  return std::string("Vector<") + memory(access(number).dtype) + numbered(", ", grid_.vector) +
         numbered(", ", width) + ">";
}

std::string FusedWriter::constant(const Value& value) const {
  switch (value.lane) {
    case Lane::f32: {
      const uint32_t bits = static_cast<uint32_t>(value.bits);
      const float number = __builtin_bit_cast(float, bits);
      return std::isfinite(number) ? hex("%af", static_cast<double>(number))
                                   : numbered("floatOf(", bits) + "u)";
    }
    case Lane::f64: {
      const double number = __builtin_bit_cast(double, value.bits);
      return std::isfinite(number)
                 ? hex("%a", number)
                 : "__builtin_bit_cast(double, uint64_t{" + std::to_string(value.bits) + "ull})";
    }
    default:
      return std::string("static_cast<") + lane(value.lane) + ">(" + std::to_string(value.bits) + "ull)";
  }
}

void FusedWriter::declareInvariant() {
  using Buffer = PrintedFused::Buffer;
  const FusedSpec& spec = grid_.plan.spec;
  for (size_t i = 0; i < spec.values.size(); i++) {
    const Value& value = spec.values[i];
    if (!live_[i] || !value.isRead() || value.kind == Value::Kind::index) continue;
    const int number = grid_.accessOf[i];
    if (value.kind == Value::Kind::load) {
      const std::string type = std::string("const ") + memory(access(number).dtype) + "*";
      line(type + " const " + numbered("a", number) + " = static_cast<" + type + ">(" +
           buffer({Buffer::Kind::read, value.read, startOf(number)}) + ");");
      if (how(number).kind == AccessKind::invariant)
        line(std::string("const ") + lane(value.lane) + " " + numbered("c", number) + " = laneOf(*" +
             numbered("a", number) + ");");
      continue;
    }
    line(std::string("Random<") + (value.kind == Value::Kind::normal ? "true" : "false") + "> " +
         numbered("random", number) + "(static_cast<const int64_t*>(" +
         buffer({Buffer::Kind::read, value.read}) + numbered(") + ", value.keyOffset) + ", " +
         str(value.keyStride) + ", " + std::to_string(value.stream) + "ull);");
    if (value.first >= 0)
      line("const uint64_t " + numbered("first", number) + " = static_cast<const uint64_t*>(" +
           buffer({Buffer::Kind::read, static_cast<uint32_t>(value.first)}) +
           numbered(")[", value.firstOffset) + "];");
  }
  for (size_t k = 0; k < spec.stores.size(); k++) {
    const int number = grid_.storeAccess[k];
    const std::string type = std::string(memory(access(number).dtype)) + "*";
    line(type + " const " + numbered("a", number) + " = static_cast<" + type + ">(" +
         buffer({Buffer::Kind::write, spec.stores[k].write, startOf(number)}) + ");");
  }
  for (size_t number = 0; number < grid_.accesses.size(); number++)
    if (grid_.accesses[number].kind == AccessKind::turned)
      line(std::string("LAZULI_SHARED ") + memory(grid_.plan.accesses[number].dtype) +
           numbered(" m", number) + "[" + str(kSquare * (kSquare + 1)) + "];");
}

void FusedWriter::declareVectors() {
  const std::string many = numbered("[", grid_.unroll) + "];";
  for (size_t i = 0; i < live_.size(); i++) {
    if (!isLoad(i)) continue;
    const int number = grid_.accessOf[i];
    switch (how(number).kind) {
      case AccessKind::invariant:
      case AccessKind::turned:
        break;
      case AccessKind::broadcast:
        line(std::string(memory(access(number).dtype)) + " " + numbered("x", number) + many);
        break;
      default:
        line(vectorType(number) + " " + numbered("x", number) + many);
    }
  }
}

void FusedWriter::coordinates(const std::string& from, const std::vector<size_t>& dims, int unit) {
  std::string rest = from;
  for (size_t k = dims.size(); k-- > 0;) {
    const size_t dim = dims[k];
    const bool inVectors = k + 1 == dims.size() && unit == 0;
    const int64_t extent = inVectors ? grid_.vectors() : grid_.plan.extents[dim];
    std::string at = rest;
    if (k > 0) {
      at = rest + " % " + count(extent);
      const std::string next = from + str(static_cast<int64_t>(k));
      line("const N " + next + " = " + rest + " / " + count(extent) + ";");
      rest = next;
    }
    const int by = inVectors ? grid_.vector : std::max(unit, 1);
    line(numbered("const I i", dim) + " = static_cast<I>(" + at + ")" + (by == 1 ? "" : numbered(" * ", by)) +
         ";");
  }
}

/// Whether element `at` of a dim lies in what a pad takes from its operand.
std::string FusedWriter::window(int number, size_t dim, const std::string& at) const {
  const PadWindow& window = access(number).pad[dim];
  const std::string from = window.low == 0 ? at : "(" + at + numbered(" - ", window.low) + ")";
  if (window.step == 1) return "static_cast<N>(" + from + ") < " + count(window.count);
  return at + numbered(" >= ", window.low) + " && " + from + numbered(" % ", window.step) + " == 0 && " +
         from + numbered(" / ", window.step) + " < " + str(window.count);
}

/// The same of all dims but the innermost, where an access has one of its own; empty: it lies inside.
std::string FusedWriter::windows(int number) const {
  std::string all;
  if (access(number).pad.empty()) return all;
  for (size_t dim = 0; dim < grid_.plan.extents.size(); dim++) {
    const PadWindow& w = access(number).pad[dim];
    if (w.low == 0 && w.step == 1 && w.count == grid_.plan.extents[dim]) continue;
    if (!all.empty()) all += " && ";
    all += window(number, dim, numbered("i", dim));
  }
  return all;
}

/// Where the vector begins, from the access's own offset.
std::string FusedWriter::offset(int number) const {
  const TileAccess& access = this->access(number);
  std::string sum;
  for (size_t dim = 0; dim < access.strides.size(); dim++) {
    if (access.strides[dim] == 0 || grid_.plan.extents[dim] == 1) continue;
    std::string at = numbered("i", dim);
    if (!access.pad.empty()) {
      const PadWindow& window = access.pad[dim];
      if (window.low != 0) at = "(" + at + numbered(" - ", window.low) + ")";
      if (window.step != 1) at = "(" + at + numbered(" / ", window.step) + ")";
    }
    if (access.strides[dim] != 1) at += numbered(" * ", access.strides[dim]);
    sum += (sum.empty() ? "" : " + ") + at;
  }
  return sum.empty() ? "0" : sum;
}

/// Elements of the vector that there are; empty: all.
std::string FusedWriter::partCount() const {
  if (!grid_.hasTail()) return "";
  return numbered("static_cast<int>(", grid_.width()) + numbered(" - i", grid_.plan.extents.size() - 1) + ")";
}

void FusedWriter::loads() {
  for (size_t i = 0; i < live_.size(); i++) {
    if (!isLoad(i)) continue;
    const int number = grid_.accessOf[i];
    const AccessKind kind = how(number).kind;
    if (kind == AccessKind::invariant || kind == AccessKind::turned) continue;
    const std::string inside = windows(number), guard = inside.empty() ? "" : "if (" + inside + ") ";
    const std::string x = numbered("x", number) + "[u]",
                      from = numbered("a", number) + " + " + offset(number);
    if (kind == AccessKind::broadcast) {
      line(guard + x + " = *(" + from + ");");
    } else if (kind == AccessKind::vector) {
      line(guard + x + ".load(" + from + (grid_.hasTail() ? ", " + partCount() : "") + ");");
    } else {
      line(guard + x + ".load(" + from + ");");
    }
  }
}

void FusedWriter::loadTurned(const std::string& place) {
  for (size_t i = 0; i < live_.size(); i++)
    if (isLoad(i) && how(grid_.accessOf[i]).kind == AccessKind::turned)
      line(numbered("m", grid_.accessOf[i]) + "[" + place + "] = " + numbered("a", grid_.accessOf[i]) + "[" +
           offset(grid_.accessOf[i]) + "];");
}
bool FusedWriter::storesTurned() const {
  return std::any_of(grid_.storeAccess.begin(), grid_.storeAccess.end(),
                     [&](int number) { return how(number).kind == AccessKind::turned; });
}
void FusedWriter::storeTurned(const std::string& place) {
  for (int number : grid_.storeAccess)
    if (how(number).kind == AccessKind::turned)
      line(numbered("a", number) + "[" + offset(number) + "] = " + numbered("m", number) + "[" + place +
           "];");
}

/// The number of element j.
std::string FusedWriter::element(const Value&, int number) const {
  const TileAccess& access = this->access(number);
  const std::string last = access.strides.back() == 0 ? "" : numbered(" + j * ", access.strides.back());
  return "static_cast<int64_t>(" + offset(number) + last + numbered(") + ", access.offset);
}

std::string FusedWriter::expression(size_t index) const {
  const Value& value = grid_.plan.spec.values[index];
  const int number = grid_.accessOf[index];
  switch (value.kind) {
    case Value::Kind::constant:
      return constant(value);
    case Value::Kind::load: {
      const std::string x = numbered("x", number) + "[u]";
      switch (how(number).kind) {
        case AccessKind::invariant:
          return numbered("c", number);
        case AccessKind::turned:
          return "laneOf(" + numbered("m", number) + "[" + place_ + "])";
        case AccessKind::broadcast:
          return access(number).pad.empty()
                     ? "laneOf(" + x + ")"
                     : numbered("inside", number) + " ? laneOf(" + x + ") : " + constant(value);
        default:
          return access(number).pad.empty()
                     ? "laneOf(" + x + ".get(j))"
                     : numbered("inside", number) + " ? laneOf(" + x + ".get(j)) : " + constant(value);
      }
    }
    case Value::Kind::index:
      return element(value, number);
    case Value::Kind::uniform:
    case Value::Kind::normal:
      return numbered("random", number) + ".of(static_cast<uint64_t>(" + element(value, number) + ")" +
             (value.first >= 0 ? " + " + numbered("first", number) : "") + ")";
    case Value::Kind::cast:
      return std::string("convert<") + lane(value.lane) + ">(" + numbered("v", value.args[0]) + ")";
    case Value::Kind::op:
      break;
  }
  std::string call = function(value.op) + "(";
  for (int arg : value.args)
    if (arg >= 0) call += (call.back() == '(' ? "" : ", ") + numbered("v", arg);
  return call + ")";
}

void FusedWriter::compute(const std::vector<std::string>& states, const std::string& index) {
  const FusedSpec& spec = grid_.plan.spec;
  for (size_t i = 0; i < live_.size(); i++) {
    if (!isLoad(i) || access(grid_.accessOf[i]).pad.empty()) continue;
    const std::string inside = windows(grid_.accessOf[i]);
    line("const bool " + numbered("inside", grid_.accessOf[i]) + " = " + (inside.empty() ? "true" : inside) +
         ";");
  }
  if (grid_.hasTail()) line("const int part = " + partCount() + ";");
  for (int number : grid_.storeAccess)
    if (how(number).kind == AccessKind::vector) line(vectorType(number) + " " + numbered("x", number) + ";");
  each("j", grid_.vector, [&] {
    for (size_t i = 0; i < live_.size(); i++)
      if (live_[i])
        line(std::string("const ") + lane(spec.values[i].lane) + " " + numbered("v", static_cast<int>(i)) +
             " = " + expression(i) + ";");
    for (size_t k = 0; k < spec.stores.size(); k++) {
      const int number = grid_.storeAccess[k];
      const std::string stored = std::string("Memory<") + memory(access(number).dtype) + ">::of(" +
                                 numbered("v", spec.stores[k].value) + ")";
      if (how(number).kind == AccessKind::vector) {
        line(numbered("x", number) + ".set(j, " + stored + ");");
      } else if (how(number).kind == AccessKind::turned) {
        line(numbered("m", number) + "[" + place_ + "] = " + stored + ";");
      } else {
        line(numbered("a", number) + "[" + offset(number) + "] = " + stored + ";");
      }
    }
    for (size_t k = 0; k < states.size(); k++)
      line(std::string(grid_.hasTail() ? "if (j < part) " : "") + states[k] + "[j].take(" +
           numbered("v", spec.reduces[k].value) + ", static_cast<int32_t>(" + index + "));");
  });
  for (int number : grid_.storeAccess)
    if (how(number).kind == AccessKind::vector)
      line(numbered("x", number) + ".store(" + numbered("a", number) + " + " + offset(number) +
           (grid_.hasTail() ? ", part" : "") + ");");
}

}  // namespace lazuli::cuda
