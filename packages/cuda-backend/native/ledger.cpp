#include "ledger.h"

#include <algorithm>

#include "program_check.h"

namespace lazuli {
namespace {

std::string text(BufferId id) { return "buffer " + std::to_string(id); }

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::vector<BufferId> sorted(std::span<const BufferId> ids) {
  std::vector<BufferId> all(ids.begin(), ids.end());
  if (!std::is_sorted(all.begin(), all.end())) std::sort(all.begin(), all.end());
  return all;
}

std::vector<BufferId> donatedIds(const Executable& executable, std::span<const BufferId> inputs) {
  std::vector<BufferId> ids;
  for (size_t i = 0; i < inputs.size(); i++)
    if (executable.isDonated(i)) ids.push_back(inputs[i]);
  return sorted(ids);
}

}  // namespace

ExecutableId Ledger::compile(std::span<const uint32_t> words, bool withText) {
  Program program = decode(words);
  checkMeshes(program, deviceCount_);
  Lowered lowered = lower_(program);
  auto made =
      std::make_shared<Executable>(std::move(lowered), program.donated, options_.memoryLimitBytes, withText);
  ExecutableId id = nextExecutable_++;
  constants_ += made->info().constantBytes;
  executables_.emplace(id, std::move(made));
  return id;
}

const std::shared_ptr<Executable>& Ledger::executable(ExecutableId id) const {
  auto found = executables_.find(id);
  if (found == executables_.end()) refuse("there is no executable " + std::to_string(id));
  return found->second;
}

void Ledger::release(ExecutableId id) {
  constants_ -= executable(id)->info().constantBytes;
  executables_.erase(id);
  arena_ = std::min(arena_, arenaBytes());
}

size_t Ledger::arenaBytes() const {
  size_t bytes = 0;
  for (const auto& [id, executable] : executables_) bytes = std::max(bytes, executable->info().arenaBytes);
  return bytes;
}

size_t Ledger::bytes(BufferId id) const {
  auto found = buffers_.find(id);
  if (found == buffers_.end()) refuse("there is no " + text(id));
  return found->second;
}

void Ledger::checkInputs(const Executable& executable, std::span<const BufferId> inputs) const {
  if (inputs.size() != executable.inputCount()) {
    refuse("the program has " + std::to_string(executable.inputCount()) + " inputs, got " +
           std::to_string(inputs.size()));
  }
  for (size_t i = 0; i < inputs.size(); i++) {
    if (bytes(inputs[i]) == executable.inputBytes(i)) continue;
    refuse("input " + std::to_string(i) + " needs " + std::to_string(executable.inputBytes(i)) +
           " bytes, but " + text(inputs[i]) + " has " + std::to_string(bytes(inputs[i])));
  }
  // A donated buffer is overwritten: it must not be read as another input.
  const std::vector<BufferId> given = donatedIds(executable, inputs);
  if (given.empty()) return;
  auto twice = std::adjacent_find(given.begin(), given.end());
  for (size_t i = 0; twice == given.end() && i < inputs.size(); i++) {
    if (!executable.isDonated(i) && std::binary_search(given.begin(), given.end(), inputs[i]))
      twice = std::lower_bound(given.begin(), given.end(), inputs[i]);
  }
  if (twice != given.end()) refuse(text(*twice) + " is donated, and is also another input");
}

void Ledger::checkOutputs(const Executable& executable, std::span<const BufferId> inputs,
                          std::span<const BufferId> outputs) const {
  if (outputs.size() != executable.outputCount()) {
    refuse("the program has " + std::to_string(executable.outputCount()) + " outputs, got " +
           std::to_string(outputs.size()));
  }
  const std::vector<BufferId> all = sorted(outputs);
  auto twice = std::adjacent_find(all.begin(), all.end());
  if (twice != all.end()) refuse(text(*twice) + " is two outputs");
  // An output may go on under the number of an input that is donated.
  const std::vector<BufferId> given = donatedIds(executable, inputs);
  for (BufferId id : outputs) {
    if (buffers_.count(id) > 0 && !std::binary_search(given.begin(), given.end(), id))
      refuse(text(id) + " exists already");
  }
}

void Ledger::checkMemory(const char* what, size_t bytes, size_t arena) const {
  size_t limit = options_.memoryLimitBytes;
  size_t needed = live_ + bytes + std::max(arena, arena_) + constants_;
  if (limit == 0 || needed <= limit) return;
  throw OutOfMemoryError(std::string(what) + " would need " + formatBytes(needed) + " but the limit is " +
                         formatBytes(limit) + " (live buffers " + formatBytes(live_) + ", new ones " +
                         formatBytes(bytes) + ", arena " + formatBytes(std::max(arena, arena_)) +
                         ", constants " + formatBytes(constants_) + ")");
}

void Ledger::admitRun(const Executable& executable, std::span<const BufferId> inputs,
                      std::span<const BufferId> outputs) {
  checkInputs(executable, inputs);
  checkOutputs(executable, inputs, outputs);
  checkMemory("the run", executable.info().outputBytes, executable.info().arenaBytes);
  arena_ = std::max(arena_, executable.info().arenaBytes);
  buffers_.reserve(buffers_.size() + outputs.size());
  // A number that goes on keeps its entry: a repeated step of hundreds of buffers changes none.
  for (size_t i = 0; i < outputs.size(); i++) {
    buffers_[outputs[i]] = executable.outputBytes(i);
    live_ += executable.outputBytes(i);
  }
  const std::vector<BufferId> kept = sorted(outputs);
  for (size_t i = 0; i < inputs.size(); i++) {
    if (!executable.isDonated(i)) continue;
    live_ -= executable.inputBytes(i);
    if (!std::binary_search(kept.begin(), kept.end(), inputs[i])) buffers_.erase(inputs[i]);
  }
}

void Ledger::admitUpload(BufferId id, size_t bytes) {
  if (buffers_.count(id) > 0) refuse(text(id) + " exists already");
  checkMemory("the upload", bytes, 0);
  buffers_.emplace(id, bytes);
  live_ += bytes;
}

void Ledger::admitFree(std::span<const BufferId> ids) {
  const std::vector<BufferId> all = sorted(ids);
  auto twice = std::adjacent_find(all.begin(), all.end());
  if (twice != all.end()) refuse(text(*twice) + " is freed twice");
  for (BufferId id : ids) bytes(id);
  for (BufferId id : ids) {
    live_ -= bytes(id);
    buffers_.erase(id);
  }
}

}  // namespace lazuli
