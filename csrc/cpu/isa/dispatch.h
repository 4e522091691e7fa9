#pragma once

#include <string>
#include <vector>

namespace memcore {

// The instruction sets that run here, slowest first.
std::vector<std::string> isas();

// The one in use, and the way to choose another. An unknown or unsupported name throws
// BackendError.
std::string isa();
void set_isa(const std::string& name);

}  // namespace memcore
