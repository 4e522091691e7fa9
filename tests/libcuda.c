/* What memcore asks of CUDA's driver, done with the host's memory, as cuda.h declares it.

   Each call is noted; one of them can be made to fail. What a driver would not forgive counts as a
   fault: wrong sizes, calls without a context, memory that is freed twice or never. */
#define _GNU_SOURCE
#include <cuda.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#undef cuGetProcAddress
#define GRANULE ((size_t)1 << 12)
#define MOST 4096

typedef struct {
  char* begin;
  size_t n_bytes;
} Span;

static char notes[1 << 20];
static size_t n_noted;
static char failing[64];
static int n_before_failure;
static int faults, context_depth, relaxed;
static Span locked[MOST], reserved[MOST], mapped[MOST];
static int files[MOST];
static size_t file_bytes[MOST];

/* Whether this call fails. */
static int note(const char* name, size_t a, size_t b) {
  if (n_noted < sizeof(notes) - 128)
    n_noted += sprintf(notes + n_noted, "%s %zu %zu\n", name, a, b);
  if (strcmp(name, failing) != 0 || n_before_failure-- > 0) return 0;
  failing[0] = 0;
  return 1;
}

static void fault(int is_one, const char* what) {
  if (!is_one) return;
  ++faults;
  fprintf(stderr, "libcuda: %s\n", what);
}

static Span* find(Span* spans, void* begin) {
  for (int i = 0; i < MOST; ++i)
    if (spans[i].begin == begin) return &spans[i];
  return NULL;
}

static int overlaps(const Span* spans, char* begin, size_t n) {
  for (int i = 0; i < MOST; ++i)
    if (spans[i].begin && begin < spans[i].begin + spans[i].n_bytes && spans[i].begin < begin + n)
      return 1;
  return 0;
}

static void add(Span* spans, void* begin, size_t n_bytes) {
  Span* free = find(spans, NULL);
  free->begin = begin;
  free->n_bytes = n_bytes;
}

static void check_context(void) {
  fault(context_depth != 1, "a call without a context");
  fault(relaxed != CU_STREAM_CAPTURE_MODE_RELAXED, "a call that a capture would forbid");
}

#define BEGIN(name, a, b) \
  if (note(name, (size_t)(a), (size_t)(b))) return CUDA_ERROR_OUT_OF_MEMORY

static CUresult init(unsigned flags) {
  BEGIN("cuInit", flags, 0);
  return CUDA_SUCCESS;
}

static CUresult get(CUdevice* device, int ordinal) {
  BEGIN("cuDeviceGet", ordinal, 0);
  *device = ordinal + 40;
  return CUDA_SUCCESS;
}

static CUresult attribute(int* value, CUdevice_attribute which, CUdevice device) {
  BEGIN("cuDeviceGetAttribute", which, device);
  fault(which != CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, "an attribute");
  *value = 1;
  return CUDA_SUCCESS;
}

static CUresult retain(CUcontext* context, CUdevice device) {
  BEGIN("cuDevicePrimaryCtxRetain", device, 0);
  *context = (CUcontext)&context_depth;
  return CUDA_SUCCESS;
}

static CUresult push(CUcontext context) {
  fault(context != (CUcontext)&context_depth, "another context");
  BEGIN("cuCtxPushCurrent", 0, 0);
  ++context_depth;
  return CUDA_SUCCESS;
}

static CUresult pop(CUcontext* context) {
  fault(--context_depth < 0 || !context, "a context that was not pushed");
  return CUDA_SUCCESS;
}

static CUresult exchange(CUstreamCaptureMode* mode) {
  BEGIN("cuThreadExchangeStreamCaptureMode", 0, 0);
  const int before = relaxed;
  relaxed = *mode;
  *mode = before;
  return CUDA_SUCCESS;
}

static CUresult lock(void* begin, size_t n_bytes, unsigned flags) {
  check_context();
  BEGIN("cuMemHostRegister", begin, n_bytes);
  fault(flags != (CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP), "flags of a lock");
  fault((size_t)begin % 4096 || n_bytes % 4096, "a lock of parts of pages");
  fault(overlaps(locked, begin, n_bytes), "memory that is locked twice");
  add(locked, begin, n_bytes);
  return CUDA_SUCCESS;
}

static CUresult device_pointer(CUdeviceptr* there, void* begin, unsigned flags) {
  check_context();
  BEGIN("cuMemHostGetDevicePointer", begin, flags);
  fault(!find(locked, begin), "the address of what is not locked");
  *there = (CUdeviceptr)begin;
  return CUDA_SUCCESS;
}

static CUresult unlock(void* begin) {
  check_context();
  BEGIN("cuMemHostUnregister", begin, 0);
  Span* span = find(locked, begin);
  fault(!span, "what is not locked is unlocked");
  if (span) span->begin = NULL;
  return CUDA_SUCCESS;
}

static void check_kind(const CUmemAllocationProp* kind) {
  static const CUmemAllocationProp zero;
  fault(kind->type != CU_MEM_ALLOCATION_TYPE_PINNED, "the type of an allocation");
  fault(kind->location.type != CU_MEM_LOCATION_TYPE_DEVICE, "the place of an allocation");
  fault(kind->requestedHandleTypes != 0 || kind->win32HandleMetaData != NULL, "a handle type");
  fault(memcmp(&kind->allocFlags, &zero.allocFlags, sizeof(zero.allocFlags)), "allocation flags");
}

static CUresult granularity(size_t* granule, const CUmemAllocationProp* kind,
                            CUmemAllocationGranularity_flags option) {
  BEGIN("cuMemGetAllocationGranularity", option, kind->location.id);
  check_kind(kind);
  *granule = GRANULE;
  return CUDA_SUCCESS;
}

static CUresult reserve(CUdeviceptr* address, size_t n_bytes, size_t alignment, CUdeviceptr wanted,
                        unsigned long long flags) {
  check_context();
  BEGIN("cuMemAddressReserve", n_bytes, 0);
  fault(n_bytes % GRANULE || alignment || wanted || flags, "what is reserved");
  void* begin = mmap(NULL, n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (begin == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  add(reserved, begin, n_bytes);
  *address = (CUdeviceptr)begin;
  return CUDA_SUCCESS;
}

static CUresult release_addresses(CUdeviceptr address, size_t n_bytes) {
  check_context();
  BEGIN("cuMemAddressFree", address, n_bytes);
  Span* span = find(reserved, (void*)address);
  fault(!span || span->n_bytes != n_bytes, "the addresses that are freed");
  fault(overlaps(mapped, (char*)address, n_bytes), "addresses that are freed with memory behind");
  if (span) span->begin = NULL;
  munmap((void*)address, n_bytes);
  return CUDA_SUCCESS;
}

static CUresult create(CUmemGenericAllocationHandle* memory, size_t n_bytes,
                       const CUmemAllocationProp* kind, unsigned long long flags) {
  check_context();
  BEGIN("cuMemCreate", n_bytes, kind->location.id);
  check_kind(kind);
  fault(n_bytes == 0 || n_bytes % GRANULE || flags, "the size of an allocation");
  const int file = memfd_create("memory", 0);
  int i = 1;
  while (i < MOST - 1 && file_bytes[i]) ++i;
  if (file < 0 || ftruncate(file, n_bytes) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  /* New memory holds anything. */
  char junk[4096];
  memset(junk, 0x5a, sizeof(junk));
  for (size_t at = 0; at < n_bytes; at += sizeof(junk))
    fault(pwrite(file, junk, sizeof(junk), at) != sizeof(junk), "a write");
  files[i] = file;
  file_bytes[i] = n_bytes;
  *memory = i;
  return CUDA_SUCCESS;
}

static CUresult release(CUmemGenericAllocationHandle memory) {
  check_context();
  BEGIN("cuMemRelease", memory, 0);
  fault(memory == 0 || memory >= MOST || !file_bytes[memory], "memory that is released twice");
  close(files[memory]);
  file_bytes[memory] = 0;
  return CUDA_SUCCESS;
}

static CUresult map(CUdeviceptr address, size_t n_bytes, size_t offset,
                    CUmemGenericAllocationHandle memory, unsigned long long flags) {
  check_context();
  BEGIN("cuMemMap", address, n_bytes);
  fault(address % GRANULE || offset || flags || file_bytes[memory] != n_bytes, "a map");
  fault(!overlaps(reserved, (char*)address, n_bytes), "a map to addresses that are not reserved");
  fault(overlaps(mapped, (char*)address, n_bytes), "a map over another");
  fault(mmap((void*)address, n_bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, files[memory], 0) ==
            MAP_FAILED,
        "mmap");
  add(mapped, (void*)address, n_bytes);
  return CUDA_SUCCESS;
}

static CUresult set_access(CUdeviceptr address, size_t n_bytes, const CUmemAccessDesc* access,
                           size_t n) {
  check_context();
  BEGIN("cuMemSetAccess", address, n_bytes);
  const Span* span = find(mapped, (void*)address);
  fault(!span || span->n_bytes != n_bytes || n != 1, "access to what is not mapped");
  fault(access->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE ||
            access->location.type != CU_MEM_LOCATION_TYPE_DEVICE,
        "access");
  mprotect((void*)address, n_bytes, PROT_READ | PROT_WRITE);
  return CUDA_SUCCESS;
}

static CUresult unmap(CUdeviceptr address, size_t n_bytes) {
  check_context();
  BEGIN("cuMemUnmap", address, n_bytes);
  Span* span = find(mapped, (void*)address);
  fault(!span || span->n_bytes != n_bytes, "what is not mapped is unmapped");
  if (span) span->begin = NULL;
  mmap((void*)address, n_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  return CUDA_SUCCESS;
}

/* The assignments hold each of the above against cuda.h. */
CUresult cuGetProcAddress_v2(const char* name, void** function, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult* status) {
  static __typeof__(&cuInit) init_ = init;
  static __typeof__(&cuDeviceGet) get_ = get;
  static __typeof__(&cuDeviceGetAttribute) attribute_ = attribute;
  static __typeof__(&cuDevicePrimaryCtxRetain) retain_ = retain;
  static __typeof__(&cuCtxPushCurrent) push_ = push;
  static __typeof__(&cuCtxPopCurrent) pop_ = pop;
  static __typeof__(&cuThreadExchangeStreamCaptureMode) exchange_ = exchange;
  static __typeof__(&cuMemHostRegister) lock_ = lock;
  static __typeof__(&cuMemHostGetDevicePointer) device_pointer_ = device_pointer;
  static __typeof__(&cuMemHostUnregister) unlock_ = unlock;
  static __typeof__(&cuMemGetAllocationGranularity) granularity_ = granularity;
  static __typeof__(&cuMemAddressReserve) reserve_ = reserve;
  static __typeof__(&cuMemAddressFree) release_addresses_ = release_addresses;
  static __typeof__(&cuMemCreate) create_ = create;
  static __typeof__(&cuMemRelease) release_ = release;
  static __typeof__(&cuMemMap) map_ = map;
  static __typeof__(&cuMemSetAccess) set_access_ = set_access;
  static __typeof__(&cuMemUnmap) unmap_ = unmap;
  const struct {
    const char* name;
    void* function;
  } known[] = {{"cuInit", init_},
               {"cuDeviceGet", get_},
               {"cuDeviceGetAttribute", attribute_},
               {"cuDevicePrimaryCtxRetain", retain_},
               {"cuCtxPushCurrent", push_},
               {"cuCtxPopCurrent", pop_},
               {"cuThreadExchangeStreamCaptureMode", exchange_},
               {"cuMemHostRegister", lock_},
               {"cuMemHostGetDevicePointer", device_pointer_},
               {"cuMemHostUnregister", unlock_},
               {"cuMemGetAllocationGranularity", granularity_},
               {"cuMemAddressReserve", reserve_},
               {"cuMemAddressFree", release_addresses_},
               {"cuMemCreate", create_},
               {"cuMemRelease", release_},
               {"cuMemMap", map_},
               {"cuMemSetAccess", set_access_},
               {"cuMemUnmap", unmap_}};
  *function = NULL;
  fault(version != 12000 || flags != 0 || !status, "the version that is asked for");
  BEGIN(name, 0, 0);
  for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); ++i)
    if (strcmp(known[i].name, name) == 0) *function = known[i].function;
  return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* For tests: what was called since the last time; the call that is to fail after n more of it;
   faults; what is held: spans that are locked, reserved, mapped, and allocations. */
const char* take_notes(void) {
  static char taken[sizeof(notes)];
  memcpy(taken, notes, n_noted);
  taken[n_noted] = 0;
  n_noted = 0;
  return taken;
}

void fail(const char* name, int n_before) {
  strncpy(failing, name, sizeof(failing) - 1);
  n_before_failure = n_before;
}

int count_faults(void) { return faults; }

/* Where the spans that are locked begin and end, one after the other; how many there are. */
int list_locked(size_t bounds[2 * MOST]) {
  int n = 0;
  for (int i = 0; i < MOST; ++i) {
    if (!locked[i].begin) continue;
    bounds[2 * n] = (size_t)locked[i].begin;
    bounds[2 * n++ + 1] = (size_t)locked[i].begin + locked[i].n_bytes;
  }
  return n;
}

void count_held(int held[4]) {
  memset(held, 0, 4 * sizeof(int));
  for (int i = 0; i < MOST; ++i) {
    held[0] += locked[i].begin != NULL;
    held[1] += reserved[i].begin != NULL;
    held[2] += mapped[i].begin != NULL;
    held[3] += file_bytes[i] != 0;
  }
}
