#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace memcore {

// The canonical score is defined in round-to-nearest-even with denormals kept. A scope sets that
// for its thread and puts back what it found.
class FloatEnv {
 public:
  FloatEnv() : found_(read()) {
    if (found_ != kDefault) write(kDefault);
  }
  ~FloatEnv() {
    if (found_ != kDefault) write(found_);
  }
  FloatEnv(const FloatEnv&) = delete;
  FloatEnv& operator=(const FloatEnv&) = delete;

#if defined(__x86_64__)
  static uint64_t read() { return _mm_getcsr() & ~kFlags; }
  static void write(uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }

 private:
  // The sticky exception flags say nothing about how to round.
  static constexpr uint64_t kFlags = 0x3f;
  static constexpr uint64_t kDefault = 0x1f80;
#elif defined(__aarch64__)
  static uint64_t read() {
    uint64_t value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }

 private:
  static constexpr uint64_t kDefault = 0;
#else
  static uint64_t read() { return 0; }
  static void write(uint64_t) {}

 private:
  static constexpr uint64_t kDefault = 0;
#endif

  uint64_t found_;
};

}  // namespace memcore
