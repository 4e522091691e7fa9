#pragma once

#include <cstdint>

namespace memcore {

// What a row or a query is made of. Every score is computed on components widened to float32.
enum class DType : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2, kInt8 = 3 };

constexpr int64_t item_bytes(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : dtype == DType::kInt8 ? 1 : 2;
}

}  // namespace memcore
