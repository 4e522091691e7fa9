#include "dispatch.h"

#include <atomic>
#include <cstdlib>

#include "check.h"
#include "kernels.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace memcore {

extern const Kernels scalar_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels avx512vnni_kernels;
#endif
#if defined(__aarch64__) || defined(MEMCORE_EMULATE)
extern const Kernels neon_kernels;
#endif

namespace {

struct Set {
  const Kernels* table;
  bool runs;
};

std::vector<Set> sets() {
  std::vector<Set> out = {{&scalar_kernels, true}};
#if defined(MEMCORE_EMULATE)
  // Emulated sets run everywhere; the native one comes last, as the best.
  for (const Kernels* table : {&neon_kernels, &avx512_kernels, &avx512vnni_kernels, &avx2_kernels})
    out.push_back({table, true});
#elif defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  // Every processor with AVX2 and FMA has F16C.
  out.push_back(
      {&avx2_kernels, __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0});
  out.push_back({&avx512_kernels, avx512});
  out.push_back({&avx512vnni_kernels, avx512 && __builtin_cpu_supports("avx512vnni")});
#elif defined(__aarch64__)
#if defined(__linux__)
  out.push_back({&neon_kernels, (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0});
#else
  out.push_back({&neon_kernels, true});
#endif
#endif
  return out;
}

const Kernels* find(const std::string& name) {
  std::string known;
  for (const Set& set : sets()) {
    if (!set.runs) continue;
    if (name == set.table->name) return set.table;
    known += known.empty() ? set.table->name : std::string(", ") + set.table->name;
  }
  fail(ErrorKind::kBackend, "set_isa: name is \"", name, "\", should be one of ", known);
}

std::atomic<const Kernels*> chosen{nullptr};

const Kernels* choose() {
  const char* wish = std::getenv("MEMCORE_ISA");
  return find(wish != nullptr && *wish != 0 ? std::string(wish) : isas().back());
}

}  // namespace

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Set& set : sets()) {
    if (set.runs) names.emplace_back(set.table->name);
  }
  return names;
}

const Kernels& kernels() {
  const Kernels* table = chosen.load(std::memory_order_relaxed);
  if (table == nullptr) [[unlikely]] {
    table = choose();
    chosen.store(table, std::memory_order_relaxed);
  }
  return *table;
}

std::string isa() { return kernels().name; }

void set_isa(const std::string& name) { chosen.store(find(name), std::memory_order_relaxed); }

}  // namespace memcore
