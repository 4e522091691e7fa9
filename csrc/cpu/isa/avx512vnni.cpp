#define MEMCORE_KERNELS avx512vnni_kernels
#define MEMCORE_ISA_NAME "avx512vnni"
#define MEMCORE_WORDS "simd_avx512.h"
#include "kernels.inl"
