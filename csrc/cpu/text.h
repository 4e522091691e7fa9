#pragma once

#include <cstdint>

namespace memcore {

// A look at somebody else's text: code points, each `width` (1, 2 or 4) bytes wide.
struct Text {
  const void* characters;
  int64_t length;
  int width;
};

// Up to this length no count can leave int32, and one text takes less than 100 ms.
inline constexpr int64_t kMaxTextLength = int64_t{1} << 22;

// Writes the hashed features of `text` to vector (dim): L2-normalised, all zero where there are
// none. counts (dim) is scratch. dim is in [1, 2^31).
void hash_text(const Text& text, int64_t dim, int32_t* counts, float* vector);

}  // namespace memcore
