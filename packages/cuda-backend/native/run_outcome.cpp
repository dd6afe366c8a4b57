#include "run_outcome.h"

namespace lazuli {
namespace {

RunFailure::Kind kindOf(const RunResult& result) {
  if (result.outOfMemory) return RunFailure::Kind::outOfMemory;
  return result.collective ? RunFailure::Kind::collective : RunFailure::Kind::run;
}

}  // namespace

void attemptRun(RunResult& result, const std::string& self, const std::string& shortage,
                FunctionRef<void()> work) {
  const auto fail = [&](const std::string& error, int64_t node = -1) {
    result.error = error;
    result.errorNode = node;
  };
  try {
    work();
  } catch (const Inherited& error) {
    fail(error.what());
  } catch (const CollectiveError& error) {
    fail(error.what(), error.node);
    result.collective = true;
  } catch (const OutOfMemoryError& error) {
    fail(self + error.what(), error.node);
    result.outOfMemory = true;
  } catch (const ProgramError& error) {
    fail(self + error.what(), error.node);
  } catch (const std::bad_alloc&) {
    fail(self + shortage);
    result.outOfMemory = true;
  } catch (const std::exception& error) {
    fail(self + error.what());
  }
}

bool tellMesh(LocalMesh& mesh, const RunResult& result) {
  return mesh.fail({result.error, result.errorNode, kindOf(result)});
}

void agreeOn(LocalMesh& mesh, RunResult& result) {
  std::optional<RunFailure> failure = mesh.endRun();
  if (!failure) return;
  result.error = failure->error;
  result.errorNode = failure->node;
  result.outOfMemory = failure->kind == RunFailure::Kind::outOfMemory;
  result.collective = failure->kind == RunFailure::Kind::collective;
}

}  // namespace lazuli
