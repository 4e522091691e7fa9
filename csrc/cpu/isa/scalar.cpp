#define MEMCORE_KERNELS scalar_kernels
#define MEMCORE_ISA_NAME "scalar"
#define MEMCORE_WORDS "simd_scalar.h"
#include "kernels.inl"
