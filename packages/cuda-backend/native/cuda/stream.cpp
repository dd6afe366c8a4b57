#include "cuda/stream.h"

#include "cuda/driver.h"

namespace lazuli::cuda {
namespace {

CUdeviceptr address(const std::byte* memory) { return reinterpret_cast<CUdeviceptr>(memory); }

}  // namespace

void Stream::copy(std::byte* to, const std::byte* from, size_t bytes) const {
  if (bytes > 0) LAZULI_CUDA(cuMemcpyDtoDAsync, address(to), address(from), bytes, handle_);
}

void Stream::zero(std::byte* to, size_t bytes) const {
  if (bytes > 0) LAZULI_CUDA(cuMemsetD8Async, address(to), 0, bytes, handle_);
}

void Stream::copyRows(std::byte* to, size_t toPitch, const std::byte* from, size_t fromPitch, size_t width,
                      size_t rows) const {
  if (rows == 0 || width == 0) return;
  if (rows == 1 || (toPitch == width && fromPitch == width)) return copy(to, from, width * rows);
  CUDA_MEMCPY2D rectangle{};
  rectangle.srcMemoryType = rectangle.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  rectangle.srcDevice = address(from);
  rectangle.srcPitch = fromPitch;
  rectangle.dstDevice = address(to);
  rectangle.dstPitch = toPitch;
  rectangle.WidthInBytes = width;
  rectangle.Height = rows;
  LAZULI_CUDA(cuMemcpy2DAsync, &rectangle, handle_);
}

void Stream::zeroRows(std::byte* to, size_t pitch, size_t width, size_t rows) const {
  if (rows == 0 || width == 0) return;
  if (rows == 1 || pitch == width) return zero(to, width * rows);
  LAZULI_CUDA(cuMemsetD2D8Async, address(to), pitch, 0, width, rows, handle_);
}

void Stream::setWord(std::byte* to, uint32_t word) const {
  LAZULI_CUDA(cuMemsetD32Async, address(to), word, 1, handle_);
}

}  // namespace lazuli::cuda
