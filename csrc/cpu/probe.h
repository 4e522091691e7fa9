#pragma once

#include <cstdint>

// Loops that measure what this machine can do, for the bench. One thread each; the caller runs
// several at once.
namespace memcore {

// Reads bytes [0, n_bytes) in order, again and again for `seconds`. Returns bytes per second.
double probe_read(const uint8_t* data, int64_t n_bytes, double seconds);

// Reads chunks of chunk_bytes at the given offsets, each next chunk prefetched. Returns bytes per
// second.
double probe_gather(const uint8_t* data, const int64_t* offsets, int64_t n_chunks,
                    int64_t chunk_bytes, double seconds);

// Operations per second (a multiply-add is two) of float32 FMA and of the int8 dot product, all
// operands in registers.
double probe_float32(double seconds);
double probe_int8(double seconds);

// The instruction set that the two loops above use: "avx512vnni", "avx512", "avx2" or "portable".
const char* probe_isa();

// The engine's own first pass, alone, over n_blocks blocks and n_queries queries of which no row is
// kept: int8 operations per second.
double probe_first_pass(int64_t n_blocks, int64_t dim, int64_t n_queries, double seconds);

}  // namespace memcore
