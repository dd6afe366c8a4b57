#include "cuda/fused_reductions.h"

#include <algorithm>

namespace lazuli::cuda {
namespace {

using Buffer = PrintedFused::Buffer;

/// What the states of a reduction's pieces take, whatever their type: a value of 8 bytes and an index.
constexpr size_t kStateBytes = 16;

const char* stateKind(ReduceKind kind) {
  constexpr const char* names[kReduceKinds] = {"Plain<Sum, ", "Plain<Prod, ", "Plain<Max, ",
                                               "Plain<Min, ", "Arg<Max, ",    "Arg<Min, "};
  return names[static_cast<int>(kind)];
}

bool isArg(ReduceKind kind) { return kind == ReduceKind::argmax || kind == ReduceKind::argmin; }

}  // namespace

size_t ReductionWriter::scratchBytes() const {
  return static_cast<size_t>(grid_.pieces * grid_.outputs()) * kStateBytes * reduces().size();
}

Lane ReductionWriter::laneOf(const FusedSpec::Reduce& reduce) const {
  return grid_.plan.spec.values[static_cast<size_t>(reduce.value)].lane;
}

void ReductionWriter::declareStates() {
  for (size_t k = 0; k < reduces().size(); k++) {
    const std::string s = std::to_string(k);
    const std::string state = std::string(stateKind(reduces()[k].kind)) + lane(laneOf(reduces()[k])) + ">";
    w_.line("using State" + s + " = " + state + ";");
    w_.line("using Total" + s + " = " + (isWide() ? "Wide<State" + s + ">::Type;" : "State" + s + ";"));
    w_.line("State" + s + " s" + s + numbered("[", grid_.vector) + "];");
    if (grid_.twoLevels) w_.line("Total" + s + " t" + s + numbered("[", grid_.vector) + "];");
  }
  startStates(true);
}

void ReductionWriter::startStates(bool totals) {
  w_.each("j", grid_.vector, [&] {
    for (size_t k = 0; k < reduces().size(); k++) {
      const std::string s = std::to_string(k);
      w_.line("s" + s + "[j] = State" + s + "::none();");
      if (totals && grid_.twoLevels) w_.line("t" + s + "[j] = Total" + s + "::none();");
    }
  });
}

std::vector<std::string> ReductionWriter::taken() const {
  std::vector<std::string> names;
  for (size_t k = 0; k < reduces().size(); k++) names.push_back(numbered("s", k));
  return names;
}

/// The loop over what one thread reduces: `start` + k * stride below `stop`; `point` declares the dims of
/// "at".
void ReductionWriter::loop(int stride, const std::function<void()>& point, const std::string& index) {
  const auto steps = [&](const std::string& from, const std::string& stop) {
    w_.open("for (N start = " + from + "; start < " + stop + numbered("; start += ", stride * grid_.unroll) +
            ")");
    const auto guarded = [&](const std::function<void()>& body) {
      w_.eachUnrolled([&] {
        w_.line(numbered("const N at = start + u * ", stride) + ";");
        if (grid_.unroll > 1) w_.open("if (at < " + stop + ")");
        point();
        body();
        if (grid_.unroll > 1) w_.close();
      });
    };
    w_.declareVectors();
    guarded([&] { w_.loads(); });
    guarded([&] { w_.compute(taken(), index); });
    w_.close();
  };
  if (!grid_.twoLevels) return steps("begin + lane", "end");
  const std::string chunk = std::to_string(stride * kFlushSteps);
  w_.open("for (N from = begin; from < end; from += " + chunk + ")");
  w_.line("const N stop = end - from < " + chunk + "u ? end : from + " + chunk + "u;");
  steps("from + lane", "stop");
  w_.each("j", grid_.vector, [&] {
    for (size_t k = 0; k < reduces().size(); k++) {
      const std::string s = std::to_string(k);
      w_.line("t" + s + "[j].join(Wide<State" + s + ">::of(s" + s + "[j]));");
    }
  });
  startStates(false);
  w_.close();
}

std::string ReductionWriter::total(size_t k, const std::string& j) const {
  const std::string s = std::to_string(k), state = "s" + s + "[" + j + "]";
  if (grid_.twoLevels) return "t" + s + "[" + j + "]";
  return grid_.pieces > 1 ? "Wide<State" + s + ">::of(" + state + ")" : state;
}

/// Where the states of reduction k begin in the scratch memory.
std::string ReductionWriter::partial(size_t k) {
  return numbered("reinterpret_cast<Total", k) + "*>(static_cast<unsigned char*>(" +
         w_.buffer({Buffer::Kind::scratch}) +
         numbered(") + ", k * static_cast<size_t>(grid_.pieces * grid_.outputs()) * kStateBytes) + ")";
}

void ReductionWriter::writeTotal(size_t k, const std::string& state, const std::string& offset) {
  const std::string s = std::to_string(k);
  if (grid_.pieces > 1) {
    w_.line(partial(k) + "[static_cast<N>(block.y) * " + w_.count(grid_.outputs()) + " + " + offset +
            "] = " + state + ";");
    return;
  }
  const std::string type = memory(reduces()[k].dtype);
  w_.line("static_cast<" + type + "*>(" + w_.buffer({Buffer::Kind::write, reduces()[k].write}) + ")[" +
          offset + "] = Memory<" + type + ">::of(" + state + ".result<" + resultLane(k) + ">());");
}

std::string ReductionWriter::resultLane(size_t k) const {
  return isArg(reduces()[k].kind) ? "int32_t" : lane(laneOf(reduces()[k]));
}

/// Where outer position (i0, i1, ...) has its output.
std::string ReductionWriter::outerOffset() const {
  const ReduceShape& shape = grid_.plan.reduce;
  std::string text;
  for (size_t i = 0; i < shape.outerExtents.size(); i++) {
    if (shape.outerStrides[i] == 0) continue;
    if (!text.empty()) text += " + ";
    text += numbered("i", i) + numbered(" * ", shape.outerStrides[i]);
  }
  return text.empty() ? "0" : text;
}

void ReductionWriter::rows() {
  const ReduceShape& shape = grid_.plan.reduce;
  const size_t outerDims = shape.outerExtents.size();
  const int64_t vectors = grid_.width() == 0 ? 0 : shape.reduced / grid_.width() * grid_.vectors();
  const int rowsPerBlock = grid_.threads / grid_.lanes;
  const bool block = grid_.lanes > 32;
  w_.declareInvariant();
  w_.line(numbered("const N lane = threadIdx.x % ", grid_.lanes) + ";");
  w_.line(numbered("const N row = static_cast<N>(block.x) * ", rowsPerBlock) + " + threadIdx.x / " +
          std::to_string(grid_.lanes) + ";");
  const bool whole = shape.outer % rowsPerBlock == 0;
  w_.coordinates("row", dimRange(0, outerDims), 1);
  declareStates();
  if (vectors > 0) {
    w_.line("const N begin = static_cast<N>(block.y) * " + w_.count(grid_.length) + ";");
    std::string end = grid_.pieces == 1
                          ? w_.count(vectors)
                          : "(" + w_.count(vectors) + " - begin < " + w_.count(grid_.length) + " ? " +
                                w_.count(vectors) + " : begin + " + w_.count(grid_.length) + ")";
    if (!whole) end = "row < " + w_.count(shape.outer) + " ? " + end + " : 0";
    w_.line("const N end = " + end + ";");
    loop(
        grid_.lanes, [&] { w_.coordinates("at", dimRange(outerDims, dims())); }, rowIndex(outerDims));
  }
  for (size_t k = 0; k < reduces().size(); k++) {
    const std::string s = std::to_string(k);
    w_.line("Total" + s + " r" + s + " = " + total(k, "0") + ";");
    if (grid_.vector > 1) {
      w_.line("#pragma unroll");
      w_.line(numbered("for (int j = 1; j < ", grid_.vector) + "; j++) r" + s + ".join(" + total(k, "j") +
              ");");
    }
    if (block) {
      w_.line("LAZULI_SHARED Total" + s + " shared" + s + numbered("[", grid_.threads / 32) + "];");
      w_.line("r" + s + numbered(" = joinBlock<", grid_.threads) + ">(r" + s + ", shared" + s + ");");
    } else if (grid_.lanes > 1) {
      w_.line("r" + s + numbered(" = joinLanes<", grid_.lanes) + ">(r" + s + ");");
    }
  }
  w_.open(whole ? "if (lane == 0)" : "if (lane == 0 && row < " + w_.count(shape.outer) + ")");
  for (size_t k = 0; k < reduces().size(); k++) writeTotal(k, numbered("r", k), outerOffset());
  w_.close();
}

/// The place of element j along the reduced dims.
std::string ReductionWriter::rowIndex(size_t outerDims) const {
  std::string text;
  int64_t stride = 1;
  for (size_t dim = dims(); dim-- > outerDims;) {
    text = numbered("i", dim) + (stride == 1 ? "" : numbered(" * ", stride)) +
           (text.empty() ? "" : " + " + text);
    stride *= grid_.plan.extents[dim];
  }
  return text.empty() ? "j" : text + " + j";
}

void ReductionWriter::columns() {
  const ReduceShape& shape = grid_.plan.reduce;
  const size_t outerDims = shape.outerExtents.size();
  size_t reducedEnd = dims();
  for (int64_t left = shape.inner; left > 1;) left /= grid_.plan.extents[--reducedEnd];
  const int64_t columns = shape.inner / grid_.width() * grid_.vectors();
  const int64_t panels = (columns - 1) / grid_.lanes + 1;
  const int rows = grid_.threads / grid_.lanes, wide = grid_.lanes * grid_.vector;
  const std::string lanes = std::to_string(grid_.lanes);
  w_.declareInvariant();
  w_.line("const N column = static_cast<N>(block.x) % " + w_.count(panels) + " * " + lanes +
          " + threadIdx.x % " + lanes + ";");
  w_.line("const N lane = threadIdx.x / " + lanes + ";");
  if (outerDims > 0) {
    w_.line("const N outer = static_cast<N>(block.x) / " + w_.count(panels) + ";");
    w_.coordinates("outer", dimRange(0, outerDims), 1);
  }
  w_.coordinates("column", dimRange(reducedEnd, dims()));
  declareStates();
  if (shape.reduced > 0) {
    const std::string reduced = w_.count(shape.reduced), length = w_.count(grid_.length);
    w_.line("const N begin = static_cast<N>(block.y) * " + length + ";");
    std::string end = grid_.pieces == 1 ? reduced
                                        : "(" + reduced + " - begin < " + length + " ? " + reduced +
                                              " : begin + " + length + ")";
    if (columns % grid_.lanes != 0) end = "column < " + w_.count(columns) + " ? " + end + " : 0";
    w_.line("const N end = " + end + ";");
    loop(
        rows, [&] { w_.coordinates("at", dimRange(outerDims, reducedEnd), 1); }, "at");
  }
  w_.line(numbered("LAZULI_SHARED uint64_t shared[", grid_.threads * grid_.vector * stateWords()) + "];");
  for (size_t k = 0; k < reduces().size(); k++) {
    const std::string s = std::to_string(k);
    if (k > 0) w_.line("__syncthreads();");
    w_.line("Total" + s + "* const m" + s + " = reinterpret_cast<Total" + s + "*>(shared);");
    w_.each("j", grid_.vector, [&] {
      // Neighbouring threads at neighbouring places: column c is element c / lanes of thread c % lanes.
      w_.line("m" + s + numbered("[(static_cast<int>(lane) * ", grid_.vector) + " + j) * " + lanes +
              " + threadIdx.x % " + lanes + "] = " + total(k, "j") + ";");
    });
    w_.line(numbered("joinRows<", grid_.threads) + numbered(", ", rows) + numbered(", ", wide) + ">(m" + s +
            ");");
    w_.open(numbered("for (int c = static_cast<int>(threadIdx.x); c < ", wide) +
            numbered("; c += ", grid_.threads) + ")");
    w_.line("const N inner = static_cast<N>(block.x) % " + w_.count(panels) + numbered(" * ", wide) +
            " + c % " + lanes + numbered(" * ", grid_.vector) + " + c / " + lanes + ";");
    w_.open("if (inner < " + w_.count(shape.inner) + ")");
    writeTotal(k, "m" + s + "[c]", outerOffset() + numbered(" + inner * ", shape.innerStride));
    w_.close();
    w_.close();
  }
}

/// Eight bytes each that a state takes in shared memory.
int ReductionWriter::stateWords() const {
  int words = 1;
  for (const auto& reduce : reduces())
    if (isArg(reduce.kind) && laneBytes(laneOf(reduce)) == 8) words = 2;
  return words;
}

void ReductionWriter::join() {
  for (size_t k = 0; k < reduces().size(); k++) {
    const std::string s = std::to_string(k), type = memory(reduces()[k].dtype);
    w_.line("using Total" + s + " = Wide<" + stateKind(reduces()[k].kind) + lane(laneOf(reduces()[k])) +
            ">>::Type;");
    w_.line("joinPieces<Total" + s + ", " + resultLane(k) + ", " + type + ", N>(" + partial(k) +
            numbered(", ", grid_.pieces) + ", " + w_.count(grid_.outputs()) + ", static_cast<" + type +
            "*>(" + w_.buffer({Buffer::Kind::write, reduces()[k].write}) + "), block.x);");
  }
}

}  // namespace lazuli::cuda
