#pragma once

#include <memory>

#include "collectives/communicator.h"

namespace lazuli {

/// Collectives as one: what kernels ask of it is noted, and `move` does it all. Of those that are alike (the
/// same group, the same reduction) small ones are packed one after the other and cost one meeting, large ones
/// go from where they are. Every member has the same ones of the same sizes, so all pack alike; members are
/// combined element by element, so the bits are those of the collectives one by one.
class Bucket final : public Communicator {
 public:
  explicit Bucket(Communicator& to) : to_(to) {}

  int device() const override { return to_.device(); }
  void exchange(const Meeting& meeting, const std::byte* from, std::byte* to,
                const Exchange& exchange) override;
  void reduceScatter(const Meeting& meeting, const std::byte* from, std::byte* to, const Exchange& exchange,
                     Reduction reduction) override;
  void allReduce(const Meeting& meeting, const std::byte* from, std::byte* to, size_t elements,
                 Reduction reduction) override;
  void permute(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes, int64_t source,
               std::span<const int64_t> targets) override;

  void move();
  /// The first of those that `move` has got to.
  size_t reached() const { return reached_; }

 private:
  enum class Kind : uint8_t { exchange, reduceScatter, allReduce, permute };
  struct Piece {
    Kind kind;
    Group group;
    const std::string* label;  // the kernel's, which outlives this
    const std::byte* from;
    std::byte* to;
    Exchange parts;  // allReduce, permute: `bytes` alone
    Reduction reduction{};
    int64_t source = -1;
    std::vector<int64_t> targets;

    /// Bytes that a member gives: to all, or to each its own.
    size_t sent() const { return parts.fromStep == 0 ? parts.bytes : parts.bytes * group.size(); }
    /// Bytes that a member gets.
    size_t taken() const { return kind == Kind::exchange ? parts.bytes * group.size() : parts.bytes; }
    bool packsWith(const Piece& other) const;
  };

  void note(Piece piece);
  void moveOne(const Piece& piece);
  void movePacked(std::span<const Piece*> pieces);
  void pack(std::span<const Piece*> pieces, std::byte* to, size_t total) const;
  void unpack(std::span<const Piece*> pieces, const std::byte* from, size_t total) const;

  Communicator& to_;
  std::vector<Piece> pieces_;
  size_t reached_ = 0;
};

}  // namespace lazuli
