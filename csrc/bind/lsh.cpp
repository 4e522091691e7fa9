#include "lsh.h"

#include <optional>

#include "arguments.h"
#include "float_env.h"
#include "module.h"

namespace py = pybind11;

namespace memcore {
namespace {

using Maybe = std::optional<py::array>;

KeysView vectors_view(const char* op, const py::array& vectors) {
  MEMCORE_CHECK(vectors.ndim() == 2, kShape, op, ": vectors has ", vectors.ndim(),
                " axes, should have 2");
  return {static_cast<const uint8_t*>(vectors.data()),
          vector_dtype(op, "vectors", vectors),
          vectors.shape(0),
          vectors.shape(1),
          vectors.strides(0),
          vectors.strides(1)};
}

Hashes hashes_of(const char* op, const py::array& planes, const Maybe& packed, int64_t n_bits,
                 const std::string& kind, int64_t dim) {
  MEMCORE_CHECK(planes.ndim() == 2 && planes.shape(1) == dim, kShape, op,
                ": planes does not fit, should be (n_planes, ", dim, ")");
  Hashes hashes{};
  hashes.kind = kind == "sign" ? HashKind::kSign : HashKind::kCrossPolytope;
  const int64_t most = hashes.kind == HashKind::kSign ? 64 : 32;
  MEMCORE_CHECK(n_bits >= 1 && n_bits <= most, kInput, op, ": n_bits is ", n_bits,
                ", should be 1 to ", most);
  hashes.n_bits = n_bits;
  const DType dtype = vector_dtype(op, "planes", planes);
  MEMCORE_CHECK(dtype == DType::kInt8 || dtype == DType::kFloat32, kDtype, op,
                ": planes should be int8 or float32");
  const int64_t n_planes = planes.shape(0);
  const uint8_t* data =
      dtype == DType::kInt8
          ? reinterpret_cast<uint8_t*>(plain<int8_t>(op, "planes", planes, n_planes * dim))
          : reinterpret_cast<uint8_t*>(plain<float>(op, "planes", planes, n_planes * dim));
  const uint8_t* lookups =
      packed ? plain<uint8_t>(op, "packed", *packed, packed_planes_bytes(n_planes, dim)) : nullptr;
  hashes.planes = {data, dtype, n_planes, dim, lookups};
  MEMCORE_CHECK(n_planes % hashes.table_planes() == 0, kShape, op, ": planes has ", n_planes,
                " rows, should have a multiple of ", hashes.table_planes());
  return hashes;
}

py::object bind_pack(const py::array& planes) {
  MEMCORE_CHECK(planes.ndim() == 2, kShape, "lsh_pack: planes should have 2 axes");
  const int64_t n = planes.shape(0), dim = planes.shape(1);
  const int8_t* data = plain<int8_t>("lsh_pack", "planes", planes, n * dim);
  const int64_t n_bytes = packed_planes_bytes(n, dim);
  py::array_t<uint8_t> packed(n_bytes);
  if (n_bytes == 0 || !pack_planes(data, n, dim, packed.mutable_data())) return py::none();
  return packed;
}

void bind_encode(const py::array& vectors, const py::array& planes, const Maybe& packed,
                 int64_t n_bits, const std::string& kind, py::array& codes) {
  const KeysView rows = vectors_view("lsh_encode", vectors);
  const Hashes hashes = hashes_of("lsh_encode", planes, packed, n_bits, kind, rows.dim);
  uint64_t* out =
      plain_output<uint64_t>("lsh_encode", "codes", codes, rows.n_rows * hashes.n_tables());
  interruptible([&](Interrupt& interrupt) {
    const FloatEnv env;
    lsh_encode(rows, hashes, interrupt, out);
  });
}

void bind_probes(const py::array& vectors, const py::array& planes, int64_t n_bits,
                 const std::string& kind, int64_t n_probes, py::array& probes) {
  const KeysView rows = vectors_view("lsh_probes", vectors);
  const Hashes hashes = hashes_of("lsh_probes", planes, {}, n_bits, kind, rows.dim);
  MEMCORE_CHECK(n_probes >= 1 && (n_bits >= 62 || n_probes <= int64_t{1} << n_bits), kInput,
                "lsh_probes: n_probes is ", n_probes, ", should be 1 to 2^", n_bits);
  uint64_t* out = plain_output<uint64_t>("lsh_probes", "probes", probes,
                                         rows.n_rows * hashes.n_tables() * n_probes);
  interruptible([&](Interrupt& interrupt) {
    const FloatEnv env;
    lsh_probes(rows, hashes, n_probes, interrupt, out);
  });
}

}  // namespace

void register_lsh(py::module_& m) {
  m.def("lsh_pack", &bind_pack, py::arg("planes"),
        "Planes (n_planes, dim) of +-1 packed for lsh_encode: uint8; None for others.");
  m.def("lsh_encode", &bind_encode, py::arg("vectors"), py::arg("planes"), py::arg("packed"),
        py::arg("n_bits"), py::arg("kind"), py::arg("codes"),
        "The codes of vectors, written to codes (n, n_tables) uint64.");
  m.def("lsh_probes", &bind_probes, py::arg("vectors"), py::arg("planes"), py::arg("n_bits"),
        py::arg("kind"), py::arg("n_probes"), py::arg("probes"),
        "The likeliest codes of each table, written to probes (n, n_tables, n_probes) uint64.");
}

}  // namespace memcore
