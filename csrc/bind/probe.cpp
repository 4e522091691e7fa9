#include "probe.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "check.h"
#include "kernels.h"
#include "module.h"

namespace py = pybind11;

namespace memcore {
namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Offsets = py::array_t<int64_t, py::array::c_style>;

double read_rate(const Bytes& data, double seconds) {
  MEMCORE_CHECK(data.nbytes() >= 256, kInput, "probe_read: data has ", data.nbytes(),
                " bytes, should have 256 or more");
  py::gil_scoped_release release;
  return probe_read(data.data(), data.nbytes(), seconds);
}

double gather_rate(const Bytes& data, const Offsets& offsets, int64_t chunk_bytes, double seconds) {
  MEMCORE_CHECK(chunk_bytes >= 256 && chunk_bytes <= data.nbytes(), kInput,
                "probe_gather: chunk_bytes is ", chunk_bytes, ", should be from 256 to ",
                data.nbytes());
  const int64_t* begin = offsets.data();
  for (int64_t i = 0; i < offsets.size(); ++i) {
    MEMCORE_CHECK(begin[i] >= 0 && begin[i] <= data.nbytes() - chunk_bytes, kInput,
                  "probe_gather: offsets[", i, "] is ", begin[i], ", should be from 0 to ",
                  data.nbytes() - chunk_bytes);
  }
  py::gil_scoped_release release;
  return probe_gather(data.data(), begin, offsets.size(), chunk_bytes, seconds);
}

double first_pass_rate(int64_t n_blocks, int64_t dim, int64_t n_queries, double seconds) {
  MEMCORE_CHECK(n_blocks > 0, kInput, "probe_first_pass: n_blocks is ", n_blocks,
                ", should be 1 or more");
  MEMCORE_CHECK(dim > 0 && dim <= kMaxScanDim, kInput, "probe_first_pass: dim is ", dim,
                ", should be from 1 to ", kMaxScanDim);
  MEMCORE_CHECK(n_queries > 0, kInput, "probe_first_pass: n_queries is ", n_queries,
                ", should be 1 or more");
  py::gil_scoped_release release;
  return probe_first_pass(n_blocks, dim, n_queries, seconds);
}

}  // namespace

void register_probe(py::module_& m) {
  using Unlocked = py::call_guard<py::gil_scoped_release>;
  m.def("probe_isa", &probe_isa);
  m.def("probe_read", &read_rate, py::arg("data"), py::arg("seconds"));
  m.def("probe_gather", &gather_rate, py::arg("data"), py::arg("offsets"), py::arg("chunk_bytes"),
        py::arg("seconds"));
  m.def("probe_float32", &probe_float32, py::arg("seconds"), Unlocked());
  m.def("probe_int8", &probe_int8, py::arg("seconds"), Unlocked());
  m.def("probe_first_pass", &first_pass_rate, py::arg("n_blocks"), py::arg("dim"),
        py::arg("n_queries"), py::arg("seconds"));
}

}  // namespace memcore
