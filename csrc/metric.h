#pragma once

#include <cstdint>

namespace memcore {

// Larger is better for all: l2 is minus the squared distance.
enum class Metric : int32_t { kDot = 0, kCosine = 1, kL2 = 2 };

}  // namespace memcore
