#pragma once

#include <optional>

#include "kernel.h"
#include "kernels/tile.h"

namespace lazuli {

/// Which elements of a padded dim come from the operand: low, low + step, ... (`count` of them).
struct PadWindow {
  int64_t low = 0, step = 1, count = 0;
};

/// A fused kernel: an expression graph evaluated at every element of `space`, some of its values stored, some
/// reduced.
struct FusedSpec {
  struct Value {
    enum class Kind : uint8_t { constant, load, index, uniform, normal, op, cast };
    Kind kind = Kind::constant;
    Lane lane = Lane::f32;  // of the result
    TileOp op = TileOp::neg;
    int args[3] = {-1, -1, -1};  // earlier values
    /// constant: the lane's bytes. load with a pad: what lies outside.
    uint64_t bits = 0;
    /// load, and the element numbers of index, uniform and normal: over `space`. With a pad the strides are
    /// those of the operand's own dims (a step of `step` coordinates), and offset its first element.
    Layout layout;
    std::vector<PadWindow> pad;            // by dim of space; empty: none
    uint32_t read = 0;                     // the buffer; of uniform and normal, that of the key
    int64_t keyOffset = 0, keyStride = 1;  // where the key's two int64 lie
    int first = -1;  // uniform and normal of a part: the buffer of the element number its own start from
    int64_t firstOffset = 0;
    uint64_t stream = 0;

    /// Whether `layout` says what it is made from.
    bool isRead() const {
      return kind == Kind::load || kind == Kind::index || kind == Kind::uniform || kind == Kind::normal;
    }
  };
  struct Store {
    int value;
    uint32_t write;
    Layout layout;  // over `space`
  };
  struct Reduce {
    int value;
    uint32_t write;  // dense over the kept dims
    ReduceKind kind;
    DType dtype;
  };

  Dims space;
  std::vector<Value> values;  // in an order that respects their arguments
  std::vector<Store> stores;
  std::vector<Reduce> reduces;
  std::vector<bool> reduced;  // by dim of space, where there are reduces
};

/// Kernels over tiles (tile.h): parts run one after another, each over all threads. Reductions are split by
/// shape alone, so that results do not depend on the number of threads.
MadeKernel makeFused(std::vector<FusedSpec> parts);

/// The expressions as text: "out0 = silu(in0) * in1".
std::string describe(const FusedSpec& spec);

}  // namespace lazuli
