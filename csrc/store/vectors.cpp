#include "vectors.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "check.h"
#include "stream.h"
#include "tasks.h"

namespace memcore {
namespace {

// Rows that one thread takes at a time.
constexpr int64_t kTaskRows = 64;

constexpr float kLargestSquare = 1e36f;

// Round to nearest, ties to even; too large becomes infinite.
uint16_t to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t to_float16(float value) {
  constexpr uint32_t kTooLarge = 0x47800000;        // 65536
  constexpr uint32_t kSmallestNormal = 0x38800000;  // 2^-14
  constexpr uint32_t kInfinity = 0x7f800000;
  constexpr uint32_t kHalf = 0x3f000000;
  const uint32_t sign = std::bit_cast<uint32_t>(value) & 0x80000000;
  const uint32_t bits = std::bit_cast<uint32_t>(value) ^ sign;
  uint32_t half;
  if (bits >= kTooLarge) {
    half = bits > kInfinity ? 0x7e00 : 0x7c00;
  } else if (bits < kSmallestNormal) {
    // Adding one half leaves the last bit of a float16 denormal as the last bit of the sum.
    half =
        std::bit_cast<uint32_t>(std::bit_cast<float>(bits) + std::bit_cast<float>(kHalf)) - kHalf;
  } else {
    half = (bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13;
  }
  return static_cast<uint16_t>(half | sign >> 16);
}

template <typename Item>
void gather(const uint8_t* row, int64_t stride, int64_t dim, uint8_t* out) {
  for (int64_t i = 0; i < dim; ++i)
    std::memcpy(out + i * sizeof(Item), row + i * stride, sizeof(Item));
}

const char* name_of(DType dtype) {
  return dtype == DType::kFloat32 ? "float32" : dtype == DType::kFloat16 ? "float16" : "bfloat16";
}

}  // namespace

IncomingVectors::IncomingVectors(const VectorsView& view, const Slab& slab, const char* op,
                                 Interrupt& interrupt)
    : slab_(slab), n_rows_(view.n_rows), data_(view.data), row_stride_(view.row_stride) {
  if (view.dtype != slab.dtype() || view.column_stride != item_bytes(view.dtype))
    convert(view, interrupt);
  check(op, interrupt);
}

void IncomingVectors::convert(const VectorsView& view, Interrupt& interrupt) {
  const int64_t dim = view.dim;
  const int64_t row_bytes = slab_.row_bytes();
  converted_.reset(new uint8_t[n_rows_ * row_bytes]);
  for_tasks(n_rows_, kTaskRows, [&](int64_t, int64_t begin, int64_t end) {
    interrupt.poll();
    std::vector<uint8_t> gathered(dim * item_bytes(view.dtype));
    std::vector<float> wide(dim);
    for (int64_t i = begin; i < end; ++i) {
      const uint8_t* source = view.data + i * view.row_stride;
      uint8_t* target = converted_.get() + i * row_bytes;
      if (item_bytes(view.dtype) == 4)
        gather<uint32_t>(source, view.column_stride, dim, gathered.data());
      if (item_bytes(view.dtype) == 2)
        gather<uint16_t>(source, view.column_stride, dim, gathered.data());
      if (view.dtype == slab_.dtype()) {
        std::memcpy(target, gathered.data(), row_bytes);
        continue;
      }
      kernels().widen(gathered.data(), view.dtype, dim, wide.data());
      if (slab_.dtype() == DType::kFloat32) {
        std::memcpy(target, wide.data(), row_bytes);
        continue;
      }
      uint16_t* halves = reinterpret_cast<uint16_t*>(target);
      if (slab_.dtype() == DType::kFloat16)
        std::transform(wide.begin(), wide.end(), halves, to_float16);
      if (slab_.dtype() == DType::kBFloat16)
        std::transform(wide.begin(), wide.end(), halves, to_bfloat16);
    }
  });
  data_ = converted_.get();
  row_stride_ = row_bytes;
}

void IncomingVectors::check(const char* op, Interrupt& interrupt) {
  std::atomic<int64_t> first_bad{n_rows_};
  for_tasks(n_rows_, kTaskRows, [&](int64_t, int64_t begin, int64_t end) {
    interrupt.poll();
    const void* rows[kTaskRows];
    float squares[kTaskRows];
    for (int64_t i = begin; i < end; ++i) rows[i - begin] = row(i);
    kernels().square_rows(rows, slab_.dtype(), end - begin, slab_.dim(), squares);
    for (int64_t i = begin; i < end; ++i) {
      if (squares[i - begin] <= kLargestSquare) continue;
      int64_t seen = first_bad;
      while (i < seen && !first_bad.compare_exchange_weak(seen, i)) {
      }
      break;
    }
  });
  const int64_t bad = first_bad;
  if (bad == n_rows_) return;

  std::vector<float> wide(slab_.dim());
  kernels().widen(row(bad), slab_.dtype(), slab_.dim(), wide.data());
  const bool finite =
      std::all_of(wide.begin(), wide.end(), [](float x) { return std::isfinite(x); });
  MEMCORE_CHECK(finite, kInput, op, ": vectors row ", bad, " is not finite in ",
                name_of(slab_.dtype()), ", should be finite");
  const void* rows[] = {row(bad)};
  float square;
  kernels().square_rows(rows, slab_.dtype(), 1, slab_.dim(), &square);
  fail(ErrorKind::kInput, op, ": vectors row ", bad, " has squared norm ", square,
       ", should be at most 1e36");
}

void IncomingVectors::write_some(const std::vector<int64_t>& slots,
                                 const std::vector<int64_t>& order, int64_t begin,
                                 int64_t end) const noexcept {
  const int64_t row_bytes = slab_.row_bytes();
  const bool streams = n_rows_ * row_bytes >= kStreamedBytes;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t slot = slots[order[i]];
    if (slot < 0) continue;
    const uint8_t* source = row(order[i]);
    if (streams) {
      stream_copy(slab_.row(slot), source, row_bytes, row(order[std::min(i + 2, end - 1)]));
    } else {
      std::memcpy(slab_.row(slot), source, row_bytes);
    }
  }
  if (streams) stream_fence();
}

void IncomingVectors::write(const std::vector<int64_t>& slots,
                            const std::vector<int64_t>& order) const noexcept {
  for_tasks_or_alone(n_rows_, kTaskRows, [&](int64_t, int64_t begin, int64_t end) {
    write_some(slots, order, begin, end);
  });
}

void IncomingVectors::write(const std::vector<int64_t>& slots, const std::vector<int64_t>& order,
                            Interrupt& interrupt) const {
  for_tasks(n_rows_, kTaskRows, [&](int64_t, int64_t begin, int64_t end) {
    interrupt.poll();
    write_some(slots, order, begin, end);
  });
}

}  // namespace memcore
