#define MEMCORE_KERNELS neon_kernels
#define MEMCORE_ISA_NAME "neon"
#define MEMCORE_WORDS "simd_neon.h"
#include "kernels.inl"
