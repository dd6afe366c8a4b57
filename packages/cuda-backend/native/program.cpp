#include "program.h"

#include <bit>

#include "program_check.h"

namespace lazuli {
namespace {

constexpr uint32_t kMagic = 0x4c5a4c31;
constexpr uint32_t kVersion = 1;
// So that sums of sizes never overflow either.
constexpr size_t kMaxProgramBytes = size_t{1} << 60;

/// Words with bounds. `position` is the node being read, for errors.
class WordReader {
 public:
  explicit WordReader(std::span<const uint32_t> words) : words_(words) {}

  int64_t position = -1;

  [[noreturn]] void fail(const std::string& what) const {
    throw ProgramError("malformed program: " + what, position);
  }

  size_t left() const { return words_.size() - at_; }

  uint32_t next() {
    if (left() == 0) fail("it ends early");
    return words_[at_++];
  }

  /// A number of things that take `wordsEach` words or more.
  uint32_t count(size_t wordsEach) {
    uint32_t count = next();
    if (count > left() / wordsEach) fail("a count is larger than what follows");
    return count;
  }

  uint64_t next64() {
    uint64_t low = next();
    return low | static_cast<uint64_t>(next()) << 32;
  }

  std::vector<uint8_t> bytes() {
    size_t count = next();
    if (count > left() * 4) fail("a count is larger than what follows");
    std::vector<uint8_t> bytes(count);
    for (size_t i = 0; i < count; i++) bytes[i] = static_cast<uint8_t>(words_[at_ + i / 4] >> (i % 4 * 8));
    at_ += (count + 3) / 4;
    return bytes;
  }

  uint32_t below(uint32_t limit, const char* what) {
    uint32_t value = next();
    if (value >= limit) fail(std::string("no such ") + what);
    return value;
  }

  TensorType type() {
    TensorType type;
    type.dtype = static_cast<DType>(below(kDTypes, "dtype"));
    uint32_t rank = next();
    if (rank > kMaxRank) fail("rank " + std::to_string(rank) + " is more than " + std::to_string(kMaxRank));
    type.shape.resize(rank);
    int64_t size = 1;
    for (int64_t& dim : type.shape) {
      dim = next();
      if (dim > 1 && __builtin_mul_overflow(size, dim, &size)) size = kMaxElements + 1;
      if (size > kMaxElements) fail("a shape has too many elements");
    }
    return type;
  }

  Attr attr(const AttrInfo& info) {
    switch (info.kind) {
      case AttrKind::integer:
        return static_cast<int64_t>(next64());
      case AttrKind::real:
        return std::bit_cast<double>(next64());
      case AttrKind::boolean:
        return static_cast<int64_t>(below(2, "bool"));
      case AttrKind::dtype:
        return static_cast<int64_t>(below(kDTypes, "dtype"));
      case AttrKind::choice:
        return static_cast<int64_t>(below(info.choices, info.name));
      case AttrKind::ints: {
        std::vector<int64_t> ints(count(2));
        for (int64_t& value : ints) value = static_cast<int64_t>(next64());
        return ints;
      }
      case AttrKind::bytes:
        return bytes();
    }
    fail("unknown attribute kind");
  }

 private:
  std::span<const uint32_t> words_;
  size_t at_ = 0;
};

class Decoder {
 public:
  explicit Decoder(std::span<const uint32_t> words) : reader_(words) {}

  Program decode() {
    if (reader_.next() != kMagic) reader_.fail("it does not start with the magic word");
    if (reader_.next() != kVersion) reader_.fail("unknown version");
    uint32_t inputs = reader_.count(3), nodes = reader_.count(3), outputs = reader_.count(1);
    program_.inputCount = inputs;
    for (uint32_t i = 0; i < inputs; i++) {
      addValue(reader_.type(), -1, 0);
      program_.donated.push_back(reader_.below(2, "bool") != 0);
    }
    program_.nodes.reserve(nodes);
    valuesOf_.reserve(nodes);
    for (uint32_t i = 0; i < nodes; i++) {
      reader_.position = i;
      readNode();
    }
    reader_.position = -1;
    for (uint32_t i = 0; i < outputs; i++) program_.outputs.push_back(single(reader_.next()));
    if (reader_.left() > 0) reader_.fail("words follow its end");
    checkStarted(program_);
    return std::move(program_);
  }

 private:
  ValueId addValue(TensorType type, int32_t node, int32_t result) {
    bytes_ += type.bytes();
    if (bytes_ > kMaxProgramBytes) reader_.fail("its values are too large");
    program_.values.push_back({std::move(type), node, result});
    return static_cast<ValueId>(program_.values.size() - 1);
  }

  /// The values a reference stands for: those of an input or of an earlier node.
  std::vector<ValueId> refer(uint32_t ref) const {
    uint32_t position = ref / 2;
    if (ref % 2 == 1) {
      if (position >= program_.inputCount) reader_.fail("a reference to an input that there is not");
      return {position};
    }
    if (position >= valuesOf_.size()) reader_.fail("a reference to a node that is not before its user");
    return valuesOf_[position];
  }

  ValueId single(uint32_t ref) const {
    std::vector<ValueId> values = refer(ref);
    if (values.size() != 1) reader_.fail("a reference to an op of several results without saying which");
    return values[0];
  }

  void readNode() {
    int32_t position = static_cast<int32_t>(reader_.position);
    Node node{static_cast<Op>(reader_.below(kOpCount, "op")), {}, {}, {}};
    const OpInfo& op = info(node.op);
    uint32_t operands = reader_.count(1);
    if (operands < op.leastOperands || operands > op.mostOperands) {
      reader_.fail(std::string(op.name) + " with " + std::to_string(operands) + " operands");
    }
    std::vector<ValueId> several;  // of `result`, the one op that may name an op of several results
    for (uint32_t i = 0; i < operands; i++) {
      uint32_t ref = reader_.next();
      if (node.op == Op::result) {
        several = refer(ref);
      } else {
        node.operands.push_back(single(ref));
      }
    }
    if (reader_.next() != op.results) reader_.fail(std::string(op.name) + " with a wrong number of results");
    std::vector<TensorType> declared;
    for (uint32_t i = 0; i < op.results; i++) declared.push_back(reader_.type());
    for (uint32_t i = 0; i < op.attrCount; i++) node.attrs.push_back(reader_.attr(op.attrs[i]));

    if (node.op == Op::input || node.op == Op::result || node.op == Op::detach) {
      ValueId named = resolve(node, several);
      match(program_.type(named), declared[0], op);
      valuesOf_.push_back({named});
      node.operands.clear();
    } else {
      check(node, declared);
      for (uint32_t i = 0; i < op.results; i++) {
        node.results.push_back(addValue(std::move(declared[i]), position, static_cast<int32_t>(i)));
      }
      valuesOf_.push_back(node.results);
    }
    program_.nodes.push_back(std::move(node));
  }

  ValueId resolve(const Node& node, const std::vector<ValueId>& several) const {
    if (node.op == Op::detach) return node.operands[0];
    uint64_t index = static_cast<uint64_t>(
        node.integer(node.op == Op::input ? +attr::input::index : +attr::result::index));
    if (node.op == Op::input) {
      if (index >= program_.inputCount) reader_.fail("an input node of an input that there is not");
      return static_cast<ValueId>(index);
    }
    if (index >= several.size()) reader_.fail("a result that there is not");
    return several[index];
  }

  void check(const Node& node, const std::vector<TensorType>& declared) const {
    std::vector<const TensorType*> operands;
    for (ValueId value : node.operands) operands.push_back(&program_.type(value));
    std::vector<TensorType> types =
        resultTypes(NodeCheck(node, std::move(operands), declared, reader_.position));
    for (size_t i = 0; i < declared.size(); i++) match(types[i], declared[i], info(node.op));
  }

  void match(const TensorType& type, const TensorType& declared, const OpInfo& op) const {
    if (type.dtype == declared.dtype && type.shape == declared.shape) return;
    throw ProgramError("[" + std::string(op.name) + "] is declared " + name(declared.dtype) +
                           format(declared.shape) + " but gives " + name(type.dtype) + format(type.shape),
                       reader_.position);
  }

  WordReader reader_;
  Program program_;
  std::vector<std::vector<ValueId>> valuesOf_;  // by node
  size_t bytes_ = 0;
};

}  // namespace

Program decode(std::span<const uint32_t> words) { return Decoder(words).decode(); }

}  // namespace lazuli
