#include "buckets.h"

#include <algorithm>
#include <tuple>

#include "arguments.h"
#include "float_env.h"
#include "hamming.h"
#include "module.h"

namespace py = pybind11;

namespace memcore {
namespace {

using Maybe = std::optional<py::array>;

CodesView codes_view(const char* name, const py::array& codes) {
  MEMCORE_CHECK(codes.ndim() == 2 && codes.shape(1) > 0, kShape, "hamming_search: ", name,
                " should have 2 axes, and words");
  return {plain<uint64_t>("hamming_search", name, codes, codes.size()), codes.shape(0),
          codes.shape(1)};
}

void bind_hamming(const py::array& queries, const py::array& keys, const py::object& k,
                  const Maybe& mask, int64_t max_distance, py::array& scores, py::array& ids) {
  const CodesView asked = codes_view("queries", queries), rows = codes_view("keys", keys);
  MEMCORE_CHECK(asked.n_words == rows.n_words && scores.ndim() == 2, kShape,
                "hamming_search: keys has ", rows.n_words, " words, should have ", asked.n_words);
  const int64_t width = scores.shape(1);
  float* scores_out = plain_output<float>("hamming_search", "scores", scores, asked.n * width);
  int64_t* ids_out = plain_output<int64_t>("hamming_search", "ids", ids, asked.n * width);
  const CountsArgument counts("hamming_search", k, asked.n, width);
  MaskView allowed;
  if (mask) {
    const bool is_shared = mask->ndim() == 1;
    MEMCORE_CHECK(mask->itemsize() == 1 &&
                      (is_shared || (mask->ndim() == 2 && mask->shape(0) == asked.n)) &&
                      mask->shape(mask->ndim() - 1) == rows.n,
                  kShape, "hamming_search: mask does not fit");
    allowed = {static_cast<const uint8_t*>(mask->data()), is_shared ? 0 : mask->strides(0),
               mask->strides(mask->ndim() - 1)};
  }
  interruptible([&](Interrupt& interrupt) {
    hamming_search(asked, rows, counts.view(), allowed, max_distance, interrupt, width, scores_out,
                   ids_out);
  });
}

Slots slots_of(const char* op, const py::array& slots, const py::array& counts) {
  MEMCORE_CHECK(slots.ndim() == 3 && counts.ndim() == 2, kShape, op, ": slots should have 3 axes");
  return {plain<int64_t>(op, "slots", slots, slots.size()),
          plain<int64_t>(op, "counts", counts, slots.shape(0) * slots.shape(1)), slots.shape(0),
          slots.shape(1), slots.shape(2)};
}

const uint64_t* codes_below(const char* op, const py::array& codes, int64_t n, int64_t n_buckets) {
  const uint64_t* data = plain<uint64_t>(op, "codes", codes, n);
  for (int64_t i = 0; i < n; ++i) {
    MEMCORE_CHECK(data[i] < static_cast<uint64_t>(n_buckets), kInput, op, ": codes has ", data[i],
                  ", should be below ", n_buckets);
  }
  return data;
}

ProbesView probes_view(const char* op, const py::array& probes, int64_t n_tables) {
  MEMCORE_CHECK(probes.ndim() == 3 && probes.shape(1) == n_tables, kShape, op,
                ": probes does not fit, should be (n, ", n_tables, ", n_probes)");
  return {plain<uint64_t>(op, "probes", probes, probes.size()), probes.shape(0), probes.shape(1),
          probes.shape(2)};
}

py::array_t<int64_t> array_of(const std::vector<int64_t>& values) {
  return py::array_t<int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::tuple tuple_of(const Shared& shared) {
  return py::make_tuple(array_of(shared.offsets), array_of(shared.ids), array_of(shared.n_tables));
}

void bind_bucket_add(py::array& slots, py::array& counts, const py::array& ids,
                     const py::array& codes, bool is_random, uint64_t seed) {
  const Slots view = slots_of("bucket_add", slots, counts);
  const int64_t n = ids.size();
  const int64_t* named = plain<int64_t>("bucket_add", "ids", ids, n);
  const uint64_t* hashed = codes_below("bucket_add", codes, n * view.n_tables, view.n_buckets);
  const py::gil_scoped_release release;
  bucket_add(view, named, hashed, n, is_random, seed);
}

py::tuple bind_bucket_search(const py::array& slots, const py::array& counts,
                             const py::array& probes, int64_t min_hits) {
  const Slots view = slots_of("bucket_search", slots, counts);
  const ProbesView asked = probes_view("bucket_search", probes, view.n_tables);
  codes_below("bucket_search", probes, probes.size(), view.n_buckets);
  Shared found;
  interruptible(
      [&](Interrupt& interrupt) { found = bucket_search(view, asked, min_hits, interrupt); });
  return tuple_of(found);
}

template <class Number>
void add_to_sketch(py::array& sums, const py::array& codes, const py::array& values) {
  const int64_t n = codes.shape(0), n_tables = sums.shape(0), n_buckets = sums.shape(1),
                width = sums.shape(2);
  Number* to = plain_output<Number>("sketch_add", "sums", sums, sums.size());
  const uint64_t* hashed = codes_below("sketch_add", codes, n * n_tables, n_buckets);
  const Number* from = plain<Number>("sketch_add", "values", values, n * width);
  const py::gil_scoped_release release;
  const FloatEnv env;
  sketch_add(to, n_buckets, width, hashed, from, n, n_tables);
}

void bind_sketch_add(py::array& sums, const py::array& codes, const py::array& values) {
  MEMCORE_CHECK(sums.ndim() == 3 && codes.ndim() == 2, kShape,
                "sketch_add: sums should have 3 axes, codes 2");
  sums.itemsize() == 4 ? add_to_sketch<float>(sums, codes, values)
                       : add_to_sketch<double>(sums, codes, values);
}

RowLists lists_of(const char* op, const py::array& keys, const py::array& links,
                  const py::array& heads) {
  MEMCORE_CHECK(keys.ndim() == 2 && heads.ndim() == 2 && keys.shape(1) == heads.shape(0), kShape,
                op, ": keys and heads do not fit");
  const int64_t n_heads = heads.shape(1);
  MEMCORE_CHECK(n_heads > 0 && (n_heads & (n_heads - 1)) == 0, kShape, op, ": heads has ", n_heads,
                " columns, should be a power of two");
  return {plain<uint64_t>(op, "keys", keys, keys.size()),
          plain<int32_t>(op, "links", links, 2 * keys.size()),
          plain<int32_t>(op, "heads", heads, heads.size()), keys.shape(1), n_heads};
}

void bind_lists_link(const py::array& keys, py::array& links, py::array& heads, int64_t begin,
                     int64_t end) {
  const RowLists lists = lists_of("lists_link", keys, links, heads);
  MEMCORE_CHECK(begin >= 0 && begin <= end && end <= keys.shape(0), kShape,
                "lists_link: rows are beyond keys");
  const py::gil_scoped_release release;
  lists_link(lists, begin, end);
}

int64_t bind_lists_remove(py::array& keys, py::array& links, py::array& heads, int64_t n_rows,
                          const py::array& ids) {
  const RowLists lists = lists_of("lists_remove", keys, links, heads);
  const int64_t* named = plain<int64_t>("lists_remove", "ids", ids, ids.size());
  const int64_t n = ids.size();
  const py::gil_scoped_release release;
  return lists_remove(lists, n_rows, named, n);
}

py::array_t<int64_t> bind_lists_find(const py::list& banks, const py::array& owners,
                                     const py::array& probes) {
  const int64_t n_banks = static_cast<int64_t>(banks.size()), n = owners.size();
  std::vector<FilledLists> filled;
  filled.reserve(n_banks);
  for (const py::handle& bank : banks) {
    const auto [keys, links, heads, n_rows] =
        bank.cast<std::tuple<py::array, py::array, py::array, int64_t>>();
    filled.push_back({lists_of("lists_find", keys, links, heads), n_rows});
    MEMCORE_CHECK(n_rows >= 0 && n_rows <= keys.shape(0), kShape,
                  "lists_find: n_rows is beyond keys");
    MEMCORE_CHECK(filled.back().lists.n_keys == filled[0].lists.n_keys, kShape,
                  "lists_find: banks differ in tables");
  }
  MEMCORE_CHECK(n_banks > 0 && probes.ndim() == 3 && probes.shape(0) == n, kShape,
                "lists_find: probes has another number of queries than owners");
  const ProbesView asked = probes_view("lists_find", probes, filled[0].lists.n_keys - 1);
  const int64_t* owner = plain<int64_t>("lists_find", "owners", owners, n);
  for (int64_t q = 0; q < n; ++q) {
    MEMCORE_CHECK(owner[q] >= 0 && owner[q] < n_banks, kInput, "lists_find: owner ", owner[q],
                  " should be below ", n_banks);
  }
  Shared found;
  interruptible([&](Interrupt& interrupt) { found = lists_find(filled, owner, asked, interrupt); });
  int64_t width = 0;
  for (int64_t q = 0; q < n; ++q) width = std::max(width, found.offsets[q + 1] - found.offsets[q]);
  py::array_t<int64_t> named({n, width});
  for (int64_t q = 0; q < n; ++q) {
    int64_t* out = named.mutable_data() + q * width;
    int64_t* end = std::copy(found.ids.begin() + found.offsets[q],
                             found.ids.begin() + found.offsets[q + 1], out);
    std::fill(end, out + width, -1);
  }
  return named;
}

}  // namespace

void register_buckets(py::module_& m) {
  m.def("hamming_search", &bind_hamming, py::arg("queries"), py::arg("keys"), py::arg("k"),
        py::arg("mask"), py::arg("max_distance"), py::arg("scores"), py::arg("ids"),
        "The k nearest codes of each query, written to scores and ids (n_queries, width).");
  m.def("bucket_add", &bind_bucket_add, py::arg("slots"), py::arg("counts"), py::arg("ids"),
        py::arg("codes"), py::arg("is_random"), py::arg("seed"),
        "Puts ids (n,) into the buckets codes (n, n_tables) name.");
  m.def("bucket_search", &bind_bucket_search, py::arg("slots"), py::arg("counts"),
        py::arg("probes"), py::arg("min_hits"),
        "The ids that share at least min_hits tables with each query: offsets, ids, tables.");
  m.def("sketch_add", &bind_sketch_add, py::arg("sums"), py::arg("codes"), py::arg("values"),
        "Adds values (n, width) to sums (n_tables, n_buckets, width), one row after the other.");
  m.def("lists_link", &bind_lists_link, py::arg("keys"), py::arg("links"), py::arg("heads"),
        py::arg("begin"), py::arg("end"), "Chains rows begin … end - 1 by their keys.");
  m.def("lists_remove", &bind_lists_remove, py::arg("keys"), py::arg("links"), py::arg("heads"),
        py::arg("n_rows"), py::arg("ids"), "Takes rows out by id; returns how many are left.");
  m.def("lists_find", &bind_lists_find, py::arg("banks"), py::arg("owners"), py::arg("probes"),
        "The ids in the lists of a bank (keys, links, heads, number of rows) that the probes (n, "
        "n_tables, n_probes) of each query name, padded with -1: (n, most).");
}

}  // namespace memcore
