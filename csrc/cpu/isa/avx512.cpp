#define MEMCORE_KERNELS avx512_kernels
#define MEMCORE_ISA_NAME "avx512"
#define MEMCORE_WORDS "simd_avx512.h"
#include "kernels.inl"
