#define MEMCORE_KERNELS avx2_kernels
#define MEMCORE_ISA_NAME "avx2"
#define MEMCORE_WORDS "simd_avx2.h"
#include "kernels.inl"
