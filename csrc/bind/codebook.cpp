#include "codebook.h"

#include <algorithm>
#include <optional>

#include "arguments.h"
#include "assign.h"
#include "float_env.h"
#include "module.h"

namespace py = pybind11;

namespace memcore {
namespace {

using Maybe = std::optional<py::array>;

KeysView rows_view(const char* op, const char* name, const py::array& array) {
  MEMCORE_CHECK(array.ndim() == 2, kShape, op, ": ", name, " has ", array.ndim(),
                " axes, should have 2");
  return {static_cast<const uint8_t*>(array.data()),
          vector_dtype(op, name, array),
          array.shape(0),
          array.shape(1),
          array.strides(0),
          array.strides(1)};
}

void check_codes(const char* op, const int64_t* codes, int64_t n, int64_t n_codes) {
  for (int64_t i = 0; i < n; ++i) {
    MEMCORE_CHECK(codes[i] >= 0 && codes[i] < n_codes, kInput, op, ": codes has ", codes[i], " at ",
                  i, ", should be from 0 to ", n_codes - 1);
  }
}

CodebookView book_view(const char* op, const py::array& codewords) {
  MEMCORE_CHECK(codewords.ndim() == 4, kShape, op, ": codewords has ", codewords.ndim(),
                " axes, should have 4");
  return {plain<float>(op, "codewords", codewords, codewords.size()), codewords.shape(0),
          codewords.shape(1), codewords.shape(2), codewords.shape(3)};
}

void bind_assign(const py::array& rows, const py::array& codewords, py::array& codes,
                 py::array& scores) {
  const KeysView asked = rows_view("assign", "rows", rows);
  const KeysView words = rows_view("assign", "codewords", codewords);
  MEMCORE_CHECK(asked.dim == words.dim && words.n_rows > 0, kShape, "assign: codewords has shape (",
                words.n_rows, ", ", words.dim, "), should be (at least 1, ", asked.dim, ")");
  int64_t* codes_out = plain_output<int64_t>("assign", "codes", codes, asked.n_rows);
  float* scores_out = plain_output<float>("assign", "scores", scores, asked.n_rows);
  interruptible([&](Interrupt& interrupt) {
    const FloatEnv env;
    assign(asked, words, interrupt, codes_out, scores_out);
  });
}

void bind_codebook_sums(const py::array& rows, const py::array& codes, int64_t n_codes,
                        py::array& counts, py::array& sums) {
  const char* op = "codebook_sums";
  const KeysView given = rows_view(op, "rows", rows);
  MEMCORE_CHECK(given.dim <= 1 || given.n_rows == 0 || given.column_stride == rows.itemsize(),
                kShape, op, ": rows has components apart, should have them side by side");
  const int64_t* codes_in = plain<int64_t>(op, "codes", codes, given.n_rows);
  check_codes(op, codes_in, given.n_rows, n_codes);
  int64_t* counts_out = plain_output<int64_t>(op, "counts", counts, n_codes);
  float* sums_out = plain_output<float>(op, "sums", sums, n_codes * given.dim);
  interruptible([&](Interrupt& interrupt) {
    const FloatEnv env;
    codebook_sums(given, codes_in, n_codes, interrupt, counts_out, sums_out);
  });
}

void bind_codebook_ema(const py::array& batch_sums, const py::array& sums, double decay,
                       const py::array& divisors, py::array& running, py::array& codewords) {
  const char* op = "codebook_ema";
  MEMCORE_CHECK(sums.ndim() == 2, kShape, op, ": sums has ", sums.ndim(), " axes, should have 2");
  const int64_t n_codes = sums.shape(0), dim = sums.shape(1), n = n_codes * dim;
  const float* batch = plain<float>(op, "batch_sums", batch_sums, n);
  const float* before = plain<float>(op, "sums", sums, n);
  const float* divided = plain<float>(op, "divisors", divisors, n_codes);
  float* after = plain_output<float>(op, "running", running, n);
  float* words = plain_output<float>(op, "codewords", codewords, n);
  interruptible([&](Interrupt&) {
    const FloatEnv env;
    codebook_ema(batch, before, static_cast<float>(decay), static_cast<float>(1 - decay), divided,
                 n_codes, dim, after, words);
  });
}

void bind_decode(const py::array& codes, const py::array& codewords, py::array& rows) {
  const CodebookView book = book_view("decode", codewords);
  const int64_t n = codes.ndim() == 0 ? 0 : codes.shape(0);
  const int64_t* codes_in = plain<int64_t>("decode", "codes", codes, n * book.n_parts());
  check_codes("decode", codes_in, n * book.n_parts(), book.n_codes);
  float* out = plain_output<float>("decode", "rows", rows, n * book.dim());
  interruptible([&](Interrupt& interrupt) {
    const FloatEnv env;
    decode(codes_in, n, book, interrupt, out);
  });
}

void check_bits(const char* op, int64_t n_bits) {
  MEMCORE_CHECK(n_bits >= 1 && n_bits <= 32, kInput, op, ": n_bits is ", n_bits,
                ", should be from 1 to 32");
}

void bind_pack_codes(const py::array& codes, int64_t n_bits, py::array& packed) {
  check_bits("pack_codes", n_bits);
  const int64_t n = codes.size();
  const int64_t* codes_in = plain<int64_t>("pack_codes", "codes", codes, n);
  check_codes("pack_codes", codes_in, n, int64_t{1} << n_bits);
  uint8_t* out = plain_output<uint8_t>("pack_codes", "packed", packed, (n * n_bits + 7) / 8);
  pack_codes(codes_in, n, n_bits, out);
}

void bind_unpack_codes(const py::array& packed, int64_t n, int64_t n_bits, py::array& codes) {
  check_bits("unpack_codes", n_bits);
  const uint8_t* in = plain<uint8_t>("unpack_codes", "packed", packed, (n * n_bits + 7) / 8);
  unpack_codes(in, n, n_bits, plain_output<int64_t>("unpack_codes", "codes", codes, n));
}

template <class Code>
void check_rows(const CodesView& codes, int64_t n, int64_t n_codes) {
  const Code* of_rows = static_cast<const Code*>(codes.data);
  const int64_t largest = n == 0 ? 0 : *std::max_element(of_rows, of_rows + n);
  MEMCORE_CHECK(largest < n_codes, kInput, "search_codes: codes has ", largest,
                ", should be below ", n_codes);
}

void bind_search_codes(const py::array& queries, const py::array& codes, const py::array& codewords,
                       const py::object& k, const std::string& metric, const Maybe& squares,
                       py::array& scores, py::array& ids) {
  const char* op = "search_codes";
  const KeysView asked = rows_view(op, "queries", queries);
  const CodebookView book = book_view(op, codewords);
  MEMCORE_CHECK(codes.ndim() == 2 && codes.shape(1) == book.n_parts() && asked.dim == book.dim() &&
                    scores.ndim() == 2,
                kShape, op, ": queries, codes, codewords and scores do not fit");
  CodesView given{codes.data(), codes.itemsize(), codes.shape(0)};
  const int64_t n_items = codes.size();
  switch (given.item_bytes) {
    case 1:
      plain<uint8_t>(op, "codes", codes, n_items);
      check_rows<uint8_t>(given, n_items, book.n_codes);
      break;
    case 2:
      plain<uint16_t>(op, "codes", codes, n_items);
      check_rows<uint16_t>(given, n_items, book.n_codes);
      break;
    default:
      plain<uint32_t>(op, "codes", codes, n_items);
      check_rows<uint32_t>(given, n_items, book.n_codes);
  }
  const float* row_squares =
      squares ? plain<float>(op, "squares", *squares, given.n_rows) : nullptr;
  const int64_t n_queries = asked.n_rows, width = scores.shape(1);
  float* scores_out = plain_output<float>(op, "scores", scores, n_queries * width);
  int64_t* ids_out = plain_output<int64_t>(op, "ids", ids, n_queries * width);
  const CountsArgument counts(op, k, n_queries, width);
  const Metric kind = parse_metric(metric);
  interruptible([&](Interrupt& interrupt) {
    const FloatEnv env;
    const Queries prepared(op, asked.data, asked.dtype, n_queries, asked.dim, asked.row_stride,
                           asked.column_stride, kind);
    search_codes(prepared, given, book, counts.view(), row_squares, interrupt, width, scores_out,
                 ids_out);
  });
}

}  // namespace

void register_codebook(py::module_& m) {
  m.def("assign", &bind_assign, py::arg("rows"), py::arg("codewords"), py::arg("codes"),
        py::arg("scores"), "The nearest codeword of each row, and its l2 score.");
  m.def("codebook_sums", &bind_codebook_sums, py::arg("rows"), py::arg("codes"), py::arg("n_codes"),
        py::arg("counts"), py::arg("sums"), "How many rows each code has, and their sum.");
  m.def("codebook_ema", &bind_codebook_ema, py::arg("batch_sums"), py::arg("sums"),
        py::arg("decay"), py::arg("divisors"), py::arg("running"), py::arg("codewords"),
        "A step of the moving average of codewords.");
  m.def("decode", &bind_decode, py::arg("codes"), py::arg("codewords"), py::arg("rows"),
        "The vectors that codes stand for.");
  m.def("pack_codes", &bind_pack_codes, py::arg("codes"), py::arg("n_bits"), py::arg("packed"),
        "Codes as a stream of bits.");
  m.def("unpack_codes", &bind_unpack_codes, py::arg("packed"), py::arg("n"), py::arg("n_bits"),
        py::arg("codes"), "The codes of a stream of bits.");
  m.def("search_codes", &bind_search_codes, py::arg("queries"), py::arg("codes"),
        py::arg("codewords"), py::arg("k"), py::arg("metric"), py::arg("squares"),
        py::arg("scores"), py::arg("ids"), "The k best rows known by their codes.");
}

}  // namespace memcore
