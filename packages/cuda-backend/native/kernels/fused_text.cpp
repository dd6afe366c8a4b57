#include "kernels/fused.h"

namespace lazuli {
namespace {

const char* name(ReduceKind kind) {
  constexpr const char* names[kReduceKinds] = {"sum", "prod", "max", "min", "argmax", "argmin"};
  return names[static_cast<int>(kind)];
}

std::string numbered(const char* prefix, size_t number) {
  std::string text = prefix;
  return text += std::to_string(number);
}

std::string number(const FusedSpec::Value& value) {
  std::string text;
  switch (value.lane) {
    case Lane::f32:
      text = std::to_string(__builtin_bit_cast(float, static_cast<uint32_t>(value.bits)));
      break;
    case Lane::f64:
      text = std::to_string(__builtin_bit_cast(double, value.bits));
      break;
    default:
      return std::to_string(static_cast<int64_t>(value.bits));
  }
  while (text.find('.') != std::string::npos && (text.back() == '0' || text.back() == '.')) {
    const bool point = text.back() == '.';
    text.pop_back();
    if (point) break;
  }
  return text;
}

class Text {
 public:
  explicit Text(const FusedSpec& spec)
      : spec_(spec), uses_(spec.values.size(), 0), named_(spec.values.size(), false) {
    for (const auto& value : spec.values)
      for (int arg : value.args)
        if (arg >= 0) uses_[arg]++;
  }

  std::string statements() {
    // A value of several uses gets a name, so that the text stays as long as the program.
    for (size_t i = 0; i < spec_.values.size(); i++) {
      const auto kind = spec_.values[i].kind;
      if (uses_[i] < 2 || (kind != FusedSpec::Value::Kind::op && kind != FusedSpec::Value::Kind::cast))
        continue;
      std::string body = expression(static_cast<int>(i));
      named_[i] = true;
      add(numbered("t", i) + " = " + body);
    }
    for (const auto& store : spec_.stores)
      add(numbered("out", store.write) + " = " + expression(store.value));
    for (const auto& reduce : spec_.reduces)
      add(numbered("out", reduce.write) + " = " + name(reduce.kind) + "(" + expression(reduce.value) + ")");
    return text_;
  }

 private:
  void add(const std::string& statement) {
    if (!text_.empty()) text_ += "; ";
    text_ += statement;
  }

  std::string expression(int index) const {
    using Kind = FusedSpec::Value::Kind;
    const auto& value = spec_.values[index];
    if (named_[index]) return numbered("t", static_cast<size_t>(index));
    std::string key = numbered("(in", value.read);
    if (value.first >= 0) key += numbered(", from in", static_cast<size_t>(value.first));
    key += ")";
    switch (value.kind) {
      case Kind::constant:
        return number(value);
      case Kind::load:
        return numbered(value.pad.empty() ? "in" : "pad_in", value.read);
      case Kind::index:
        return "index";
      case Kind::uniform:
        return "random_uniform" + key;
      case Kind::normal:
        return "random_normal" + key;
      default:
        break;
    }
    const char* lanes[kLanes] = {"float32", "float64", "int32", "int64", "uint8"};
    std::string text =
        value.kind == Kind::cast ? lanes[static_cast<int>(value.lane)] : lazuli::name(value.op);
    const char* separator = "(";
    for (int arg : value.args) {
      if (arg < 0) continue;
      text += separator + expression(arg);
      separator = ", ";
    }
    return text + ")";
  }

  const FusedSpec& spec_;
  std::vector<int> uses_;
  std::vector<bool> named_;
  std::string text_;
};

}  // namespace

const char* name(TileOp op) {
  static constexpr const char* names[kTileOps] = {
#define LAZULI_TILE_TEXT(name) #name,
      LAZULI_TILE_UNARY_A(LAZULI_TILE_TEXT) LAZULI_TILE_UNARY_F(LAZULI_TILE_TEXT)
          LAZULI_TILE_UNARY_BOOL(LAZULI_TILE_TEXT) LAZULI_TILE_BINARY_A(LAZULI_TILE_TEXT)
              LAZULI_TILE_BINARY_F(LAZULI_TILE_TEXT) LAZULI_TILE_BINARY_BOOL(LAZULI_TILE_TEXT)
#undef LAZULI_TILE_TEXT
                  "where",
      "gelu_erf",
      "gelu_tanh",
      "gelu_erf_grad",
      "gelu_tanh_grad",
      "bool",
      "bfloat16",
      "float16",
      "mul_add",
      "mul_sub",
      "sub_mul",
      "silu_mul"};
  return names[static_cast<int>(op)];
}

std::string describe(const FusedSpec& spec) { return Text(spec).statements(); }

}  // namespace lazuli
