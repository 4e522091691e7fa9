// NEON on any processor: found instead of the compiler's header of this name.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/arm/neon.h>
