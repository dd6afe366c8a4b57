#include "cuda/fused_print.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cuda/cubin_cache.h"
#include "cuda/fused_reductions.h"
#include "cuda/fused_writer.h"

namespace lazuli::cuda {
namespace {

using Buffer = PrintedFused::Buffer;

/// One part's kernels.
class PartPrinter {
 public:
  PartPrinter(const FusedGrid& grid, std::string name)
      : grid_(grid), w_(grid), reductions_(grid, w_), name_(std::move(name)) {}

  void print(PrintedFused& printed) {
    switch (grid_.kind) {
      case FusedGrid::Kind::nothing:
        return;
      case FusedGrid::Kind::map:
        printMap();
        break;
      case FusedGrid::Kind::squares:
        printSquares();
        break;
      case FusedGrid::Kind::rows:
        reductions_.rows();
        break;
      case FusedGrid::Kind::columns:
        reductions_.columns();
        break;
    }
    const std::string body = w_.text();
    if (grid_.pieces > 1) reductions_.join();
    const std::string second = grid_.pieces > 1 ? w_.text().substr(body.size()) : "";
    std::string text = "// " + describe(grid_.plan.spec) + "\n";
    text += "struct Args" + name_ + numbered(" {\n  void* at[", std::max<size_t>(w_.buffers().size(), 1)) +
            "];\n};\n";
    text += kernelHead(name_, grid_.threads) + body + "}\n";
    PrintedFused::Launch launch{"lazuli_@_" + name_, static_cast<uint32_t>(grid_.blocks),
                                static_cast<uint32_t>(grid_.pieces), static_cast<uint32_t>(grid_.threads),
                                w_.buffers()};
    printed.launches.push_back(launch);
    if (grid_.pieces > 1) {
      text += kernelHead(name_ + "_join", 256) + second + "}\n";
      launch.kernel += "_join";
      launch.x = static_cast<uint32_t>((grid_.outputs() - 1) / 32 + 1);
      launch.y = 1;
      launch.threads = 256;
      printed.launches.push_back(launch);
      printed.scratchBytes = std::max(printed.scratchBytes, reductions_.scratchBytes());
    }
    printed.source += text;
  }

 private:
  std::string kernelHead(const std::string& name, int threads) const {
    return "LAZULI_KERNEL(lazuli_@_" + name + ", Args" + name_ + numbered(", ", threads) + ") {\n" +
           (grid_.wideIndex ? "  using I = int64_t;\n  using N = uint64_t;\n"
                            : "  using I = int32_t;\n  using N = uint32_t;\n");
  }

  size_t dims() const { return grid_.plan.extents.size(); }

  void printMap() {
    const int64_t vectors = grid_.plan.total / grid_.width() * grid_.vectors();
    const int64_t perBlock = int64_t{grid_.threads} * grid_.unroll;
    const bool whole = vectors % perBlock == 0;
    w_.declare();
    w_.line(numbered("const N base = static_cast<N>(blockIdx.x) * ", perBlock) + "u + threadIdx.x;");
    const auto point = [&] {
      w_.line(numbered("const N at = base + u * ", grid_.threads) + ";");
      if (!whole) w_.open("if (at < " + w_.count(vectors) + ")");
      w_.coordinates("at", dimRange(0, dims()));
    };
    w_.eachUnrolled([&] {
      point();
      w_.loads();
      if (!whole) w_.close();
    });
    w_.eachUnrolled([&] {
      point();
      w_.compute({});
      if (!whole) w_.close();
    });
  }

  void printSquares() {
    const FusedPlan& plan = grid_.plan;
    const size_t last = dims() - 1, other = static_cast<size_t>(grid_.squareDim);
    const int64_t acrossColumns = (plan.extents[last] - 1) / kSquare + 1,
                  acrossRows = (plan.extents[other] - 1) / kSquare + 1;
    const int step = grid_.threads / kSquare;
    w_.declare();
    w_.line("const I x = threadIdx.x % 32, y = threadIdx.x / 32;");
    w_.line("const N square = blockIdx.x;");
    w_.line("const I column = static_cast<I>(square % " + w_.count(acrossColumns) + ") * 32;");
    w_.line("const N squareRow = square / " + w_.count(acrossColumns) + ";");
    w_.line("const I row = static_cast<I>(squareRow % " + w_.count(acrossRows) + ") * 32;");
    std::vector<size_t> rest;
    for (size_t dim = 0; dim < last; dim++)
      if (dim != other) rest.push_back(dim);
    if (!rest.empty()) {
      w_.line("const N outer = squareRow / " + w_.count(acrossRows) + ";");
      w_.coordinates("outer", rest, 1);
    }
    const std::string down = numbered(" + y + u * ", step);
    const auto point = [&](bool turned) {
      w_.line(numbered("const I i", other) + " = row" + (turned ? " + x" : down) + numbered(", i", last) +
              " = column" + (turned ? down : " + x") + ";");
      w_.open(numbered("if (i", other) + numbered(" < ", plan.extents[other]) + numbered(" && i", last) +
              " < " + std::to_string(plan.extents[last]) + ")");
    };
    w_.eachUnrolled([&] {
      point(true);
      w_.loadTurned(numbered("(y + u * ", step) + ") * 33 + x");
      w_.close();
    });
    w_.eachUnrolled([&] {
      point(false);
      w_.loads();
      w_.close();
    });
    w_.line("__syncthreads();");
    w_.eachUnrolled([&] {
      point(false);
      w_.squarePlace(numbered("x * 33 + y + u * ", step));
      w_.compute({});
      w_.close();
    });
    if (!w_.storesTurned()) return;
    w_.line("__syncthreads();");
    w_.eachUnrolled([&] {
      point(true);
      w_.storeTurned(numbered("(y + u * ", step) + ") * 33 + x");
      w_.close();
    });
  }

  const FusedGrid& grid_;
  FusedWriter w_;
  ReductionWriter reductions_;
  std::string name_;
};

void replaceAll(std::string& text, char mark, const std::string& by) {
  std::string result;
  for (char c : text) c == mark ? void(result += by) : result.push_back(c);
  text = std::move(result);
}

}  // namespace

PrintedFused printFused(const std::vector<FusedSpec>& parts) {
  PrintedFused printed;
  for (size_t i = 0; i < parts.size(); i++) PartPrinter(planGrid(parts[i]), std::to_string(i)).print(printed);
  if (printed.launches.empty()) return printed;
  char hash[20];
  std::snprintf(hash, sizeof hash, "%016llx",
                static_cast<unsigned long long>(hashOf(printed.source.data(), printed.source.size())));
  printed.source = "namespace lazuli::fused::unit_@ {\n" + printed.source + "}\n";
  replaceAll(printed.source, '@', hash);
  for (auto& launch : printed.launches) replaceAll(launch.kernel, '@', hash);
  return printed;
}

}  // namespace lazuli::cuda
