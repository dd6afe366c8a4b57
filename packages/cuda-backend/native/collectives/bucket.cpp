#include "collectives/bucket.h"

#include <algorithm>

namespace lazuli {
namespace {

// A meeting costs tens of microseconds, in which so much is copied: what is larger is not worth packing.
constexpr size_t kPackedBytes = size_t{128} << 10;
constexpr size_t kLine = 64;

Spread dense(size_t bytes) { return {bytes, bytes}; }

}  // namespace

/// Alike pieces of the same number of parts can be one.
bool Bucket::Piece::packsWith(const Piece& other) const {
  return kind == other.kind && group.devices == other.group.devices &&
         reduction.dtype == other.reduction.dtype && reduction.kind == other.reduction.kind &&
         (parts.fromStep == 0) == (other.parts.fromStep == 0) && source == other.source &&
         targets == other.targets;
}

void Bucket::note(Piece piece) { pieces_.push_back(std::move(piece)); }

void Bucket::exchange(const Meeting& meeting, const std::byte* from, std::byte* to,
                      const Exchange& exchange) {
  note({Kind::exchange, meeting.group, &meeting.label, from, to, exchange, {}, -1, {}});
}

void Bucket::reduceScatter(const Meeting& meeting, const std::byte* from, std::byte* to,
                           const Exchange& exchange, Reduction reduction) {
  note({Kind::reduceScatter, meeting.group, &meeting.label, from, to, exchange, reduction, -1, {}});
}

void Bucket::allReduce(const Meeting& meeting, const std::byte* from, std::byte* to, size_t elements,
                       Reduction reduction) {
  const size_t bytes = elements * sizeBytes(reduction.dtype);
  const Exchange whole{bytes, dense(bytes), dense(bytes), 0, 0};
  note({Kind::allReduce, meeting.group, &meeting.label, from, to, whole, reduction, -1, {}});
}

void Bucket::permute(const Meeting& meeting, const std::byte* from, std::byte* to, size_t bytes,
                     int64_t source, std::span<const int64_t> targets) {
  const Exchange whole{bytes, dense(bytes), dense(bytes), 0, 0};
  note({Kind::permute,
        meeting.group,
        &meeting.label,
        from,
        to,
        whole,
        {},
        source,
        {targets.begin(), targets.end()}});
}

/// Packs go where the first of them stands. Only what is given decides, and it is alike on all members.
void Bucket::move() {
  std::vector<bool> isMoved(pieces_.size());
  for (size_t i = 0; i < pieces_.size(); i++) {
    if (isMoved[i]) continue;
    reached_ = i;
    std::vector<const Piece*> alike;
    for (size_t k = i; k < pieces_.size(); k++) {
      const bool fits = k == i || (!isMoved[k] && pieces_[k].packsWith(pieces_[i]));
      const bool isSmall = std::max(pieces_[k].sent(), pieces_[k].taken()) <= kPackedBytes;
      if (!fits || (k != i && !isSmall)) continue;
      isMoved[k] = true;
      alike.push_back(&pieces_[k]);
      if (!isSmall) break;
    }
    if (alike.size() == 1)
      moveOne(*alike[0]);
    else
      movePacked(alike);
  }
}

void Bucket::moveOne(const Piece& piece) {
  const Meeting meeting{piece.group, *piece.label};
  switch (piece.kind) {
    case Kind::exchange:
      return to_.exchange(meeting, piece.from, piece.to, piece.parts);
    case Kind::reduceScatter:
      return to_.reduceScatter(meeting, piece.from, piece.to, piece.parts, piece.reduction);
    case Kind::allReduce:
      return to_.allReduce(meeting, piece.from, piece.to,
                           piece.parts.bytes / sizeBytes(piece.reduction.dtype), piece.reduction);
    case Kind::permute:
      return to_.permute(meeting, piece.from, piece.to, piece.parts.bytes, piece.source, piece.targets);
  }
}

/// For each member that gets a part of its own, all pieces' parts for it, one after the other.
void Bucket::pack(std::span<const Piece*> pieces, std::byte* to, size_t total) const {
  const size_t parts = pieces[0]->parts.fromStep == 0 ? 1 : pieces[0]->group.size();
  for (size_t m = 0; m < parts; m++) {
    size_t at = m * total;
    for (const Piece* piece : pieces) {
      const Exchange& move = piece->parts;
      copySpread(piece->from + m * move.fromStep, move.from, to + at, dense(move.bytes), move.bytes);
      at += move.bytes;
    }
  }
}

void Bucket::unpack(std::span<const Piece*> pieces, const std::byte* from, size_t total) const {
  const size_t parts = pieces[0]->kind == Kind::exchange ? pieces[0]->group.size() : 1;
  for (size_t m = 0; m < parts; m++) {
    size_t at = m * total;
    for (const Piece* piece : pieces) {
      const Exchange& move = piece->parts;
      copySpread(from + at, dense(move.bytes), piece->to + m * move.toStep, move.to, move.bytes);
      at += move.bytes;
    }
  }
}

void Bucket::movePacked(std::span<const Piece*> pieces) {
  size_t total = 0, sent = 0, taken = 0;
  for (const Piece* piece : pieces) {
    total += piece->parts.bytes;
    sent += piece->sent();
    taken += piece->taken();
  }
  const size_t received = (sent + kLine - 1) / kLine * kLine;
  std::byte* from = to_.packing(received + taken);
  std::byte* to = from + received;
  pack(pieces, from, total);
  const Piece& first = *pieces[0];
  Piece packed = first;
  packed.from = from;
  packed.to = to;
  packed.parts = {total, dense(total), dense(total), first.parts.fromStep == 0 ? 0 : total,
                  first.kind == Kind::exchange ? total : 0};
  moveOne(packed);
  // A permute to a member that is no target leaves there what was.
  if (first.kind != Kind::permute || first.source >= 0) unpack(pieces, to, total);
}

}  // namespace lazuli
