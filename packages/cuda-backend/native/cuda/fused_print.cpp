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

constexpr size_t kScratchAlignment = 256;

/// One part of a fused group, printed.
struct Part {
  std::string description;
  std::string head, body, join;  // what every function begins with; what the first and the second kernel does
  std::vector<Buffer> buffers;   // args.at of both
  FusedGrid::Kind kind = FusedGrid::Kind::nothing;
  uint32_t x = 1, y = 1, threads = 256;  // the first kernel's grid
  uint32_t joins = 0;                    // blocks of the second, of kJoinThreads; 0: there is none
  size_t scratchBytes = 0;

  /// Whether one kernel may do this and others. Squares and columns have much shared memory each.
  bool isGrouped() const { return kind == FusedGrid::Kind::map || kind == FusedGrid::Kind::rows; }
  bool does(const Part& other) const {
    return body == other.body && join == other.join && x == other.x && y == other.y;
  }
};
constexpr uint32_t kJoinThreads = 256;

/// One part's kernels.

class PartPrinter {
 public:
  explicit PartPrinter(const FusedGrid& grid) : grid_(grid), w_(grid), reductions_(grid, w_) {}

  Part print() {
    Part part;
    part.kind = grid_.kind;
    switch (grid_.kind) {
      case FusedGrid::Kind::nothing:
        return part;
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
    part.description = describe(grid_.plan.spec);
    part.head = grid_.wideIndex ? "  using I = int64_t;\n  using N = uint64_t;\n"
                                : "  using I = int32_t;\n  using N = uint32_t;\n";
    part.body = w_.text();
    part.x = static_cast<uint32_t>(grid_.blocks);
    part.y = static_cast<uint32_t>(grid_.pieces);
    part.threads = static_cast<uint32_t>(grid_.threads);
    if (grid_.pieces > 1) {
      reductions_.join();
      part.join = w_.text().substr(part.body.size());
      part.joins = static_cast<uint32_t>((grid_.outputs() - 1) / 32 + 1);
      part.scratchBytes = reductions_.scratchBytes();
    }
    part.buffers = w_.buffers();
    return part;
  }

 private:
  size_t dims() const { return grid_.plan.extents.size(); }

  void printMap() {
    const int64_t vectors = grid_.plan.total / grid_.width() * grid_.vectors();
    const int64_t perBlock = int64_t{grid_.threads} * grid_.unroll;
    const bool whole = vectors % perBlock == 0;
    w_.declare();
    w_.line(numbered("const N base = static_cast<N>(block.x) * ", perBlock) + "u + threadIdx.x;");
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
    w_.line("const N square = block.x;");
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
};

/// The kernels of parts that run side by side: parts that do the same to other buffers have one function,
/// and a block finds its part by its number.
class GroupPrinter {
 public:
  GroupPrinter(PrintedFused& printed, std::string name) : printed_(printed), name_(std::move(name)) {}

  void add(const Part& part) {
    auto kind = std::find_if(kinds_.begin(), kinds_.end(),
                             [&](const auto& parts) { return parts.front()->does(part); });
    if (kind == kinds_.end())
      kinds_.push_back({&part});
    else
      kind->push_back(&part);
    buffers_ += part.buffers.size();
    blocks_ += uint64_t{part.x} * part.y;
  }
  bool takes(const Part& part) const {
    return kinds_.empty() ||
           (part.isGrouped() && kinds_[0][0]->isGrouped() && part.threads == kinds_[0][0]->threads &&
            buffers_ + part.buffers.size() <= kMostBuffers &&
            blocks_ + uint64_t{part.x} * part.y <= INT32_MAX);
  }

  void print() {
    printed_.source +=
        "struct Args" + name_ + numbered(" {\n  void* at[", std::max<size_t>(buffers_, 1)) + "];\n};\n";
    if (kinds_.size() == 1 && kinds_[0].size() == 1) {
      const Part& part = *kinds_[0][0];
      printed_.source += "// " + part.description + "\n";
      alone(part, part.body, name_, {part.x, part.y}, part.threads);
      if (part.joins > 0) alone(part, part.join, name_ + "_join", {part.joins, 1}, kJoinThreads);
      return;
    }
    together(false, name_, kinds_[0][0]->threads);
    const auto joins = [](const auto& parts) { return parts.front()->joins > 0; };
    if (std::any_of(kinds_.begin(), kinds_.end(), joins)) together(true, name_ + "_join", kJoinThreads);
  }

 private:
  struct Blocks {
    uint32_t x, y;
  };

  void head(const std::string& name, uint32_t threads) {
    printed_.source +=
        "LAZULI_KERNEL(lazuli_@_" + name + ", Args" + name_ + numbered(", ", threads) + ") {\n";
  }
  void launch(const std::string& name, Blocks blocks, uint32_t threads, std::vector<Buffer> buffers) {
    printed_.source += "}\n";
    printed_.launches.push_back({"lazuli_@_" + name, blocks.x, blocks.y, threads, std::move(buffers)});
  }

  void alone(const Part& part, const std::string& body, const std::string& name, Blocks blocks,
             uint32_t threads) {
    head(name, threads);
    printed_.source += part.head + "  const Block block{blockIdx.x, blockIdx.y};\n" + body;
    launch(name, blocks, threads, part.buffers);
  }

  void together(bool joins, const std::string& name, uint32_t threads) {
    std::string& text = printed_.source;
    std::string branches;
    std::vector<Buffer> buffers;
    uint32_t all = 0;
    for (size_t k = 0; k < kinds_.size(); k++) {
      const Part& part = *kinds_[k][0];
      const size_t count = part.buffers.size(), begin = buffers.size();
      for (const Part* each : kinds_[k])
        buffers.insert(buffers.end(), each->buffers.begin(), each->buffers.end());
      if (joins && part.joins == 0) continue;
      const std::string function = name + numbered("_", static_cast<int64_t>(k));
      text += "// " + std::to_string(kinds_[k].size()) + " x " + part.description + "\n";
      text += "struct Part" + function + numbered(" {\n  void* at[", std::max<size_t>(count, 1)) + "];\n};\n";
      text += "LAZULI_DEVICE void part" + function + "(const Part" + function +
              "& args, [[maybe_unused]] const Block& block) {\n" + part.head +
              (joins ? part.join : part.body) + "}\n";
      const Blocks grid = joins ? Blocks{part.joins, 1} : Blocks{part.x, part.y};
      const uint32_t each = grid.x * grid.y, blocks = each * static_cast<uint32_t>(kinds_[k].size());
      branches += numbered("  if (at < ", blocks) + numbered("u) {\n    const uint32_t part = at / ", each) +
                  numbered("u, block = at % ", each) + "u;\n    const Part" + function + " mine{{";
      for (size_t i = 0; i < count; i++)
        branches += (i > 0 ? ", " : "") + numbered("args.at[", static_cast<int64_t>(begin + i)) +
                    numbered(" + part * ", static_cast<int64_t>(count)) + "]";
      branches += "}};\n    return part" + function + numbered("(mine, {block % ", grid.x) +
                  numbered("u, block / ", grid.x) + "u});\n  }\n" + numbered("  at -= ", blocks) + "u;\n";
      all += blocks;
    }
    head(name, threads);
    text += "  uint32_t at = blockIdx.x;\n" + branches;
    launch(name, {all, 1}, threads, std::move(buffers));
  }

  PrintedFused& printed_;
  std::string name_;
  std::vector<std::vector<const Part*>> kinds_;  // parts that do the same
  size_t buffers_ = 0;
  uint64_t blocks_ = 0;
};

void replaceAll(std::string& text, char mark, const std::string& by) {
  std::string result;
  for (char c : text) c == mark ? void(result += by) : result.push_back(c);
  text = std::move(result);
}

}  // namespace

PrintedFused printFused(const std::vector<FusedSpec>& specs) {
  PrintedFused printed;
  std::vector<Part> parts;
  for (const FusedSpec& spec : specs) {
    Part part = PartPrinter(planGrid(spec)).print();
    if (part.kind == FusedGrid::Kind::nothing) continue;
    for (Buffer& buffer : part.buffers)
      if (buffer.kind == Buffer::Kind::scratch) buffer.start = static_cast<int64_t>(printed.scratchBytes);
    printed.scratchBytes +=
        (part.scratchBytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
    parts.push_back(std::move(part));
  }
  std::vector<GroupPrinter> groups;
  for (const Part& part : parts) {
    auto group =
        std::find_if(groups.begin(), groups.end(), [&](const auto& other) { return other.takes(part); });
    if (group == groups.end()) {
      groups.emplace_back(printed, std::to_string(groups.size()));
      group = std::prev(groups.end());
    }
    group->add(part);
  }
  for (GroupPrinter& group : groups) group.print();
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
