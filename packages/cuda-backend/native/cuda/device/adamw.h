#pragma once

namespace lazuli::cuda {

// Parameters of a launch, and elements of a block.
inline constexpr int kAdamwTensors = 48, kAdamwChunk = 4096;

struct AdamwTensor {
  const void* p;
  const void* g;
  const float* m;
  const float* v;
  void* pOut;
  float* mOut;
  float* vOut;
  long long n;
};

/// Block b updates a chunk of the last tensor whose first block is not beyond b.
struct AdamwArgs {
  const float* lr;
  const float* step;
  const float* gradScale;     // null: 1
  const unsigned char* skip;  // null: no
  double logBeta1, logBeta2, beta1, beta2, eps, weightDecay;
  int decoupled;
  int count;
  unsigned firstBlocks[kAdamwTensors];
  AdamwTensor tensors[kAdamwTensors];
};

}  // namespace lazuli::cuda
