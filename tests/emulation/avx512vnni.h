// AVX-512 with VNNI on a processor without either.
#pragma once

#include "avx512.h"

#define __AVX512VNNI__ 1
