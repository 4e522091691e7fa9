#include "attend.h"

#include <optional>

#include "arguments.h"
#include "float_env.h"
#include "gather.h"
#include "module.h"

namespace py = pybind11;

namespace memcore {
namespace {

using Maybe = std::optional<py::array>;

bool is_double(const py::array& array) {
  return array.dtype().kind() == 'f' && array.itemsize() == sizeof(double);
}

// Where each batch begins, in bytes: all axes but the last n_own ones are batches.
std::vector<int64_t> batch_offsets(const py::array& array, int64_t n_own) {
  std::vector<int64_t> offsets = {0};
  for (int64_t axis = 0; axis < array.ndim() - n_own; ++axis) {
    std::vector<int64_t> next;
    next.reserve(offsets.size() * array.shape(axis));
    for (const int64_t offset : offsets) {
      for (int64_t i = 0; i < array.shape(axis); ++i) {
        next.push_back(offset + i * array.strides(axis));
      }
    }
    offsets = std::move(next);
  }
  return offsets;
}

int64_t n_batches(const py::array& array, int64_t n_own) {
  int64_t n = 1;
  for (int64_t axis = 0; axis < array.ndim() - n_own; ++axis) n *= array.shape(axis);
  return n;
}

BatchRows batch_rows(const char* op, const char* name, const py::array& array, int64_t batches,
                     bool doubles) {
  MEMCORE_CHECK(array.ndim() >= 2 && n_batches(array, 2) == batches, kShape, op, ": ", name,
                " does not fit, should be (…, n, dim) of ", batches, " batches");
  const int64_t axis = array.ndim() - 2;
  BatchRows rows;
  rows.data = static_cast<const uint8_t*>(array.data());
  rows.is_double = doubles;
  if (doubles) {
    MEMCORE_CHECK(is_double(array), kDtype, op, ": ", name, " should be float64 as the others are");
  } else {
    rows.dtype = vector_dtype(op, name, array);
  }
  rows.n_rows = array.shape(axis);
  rows.dim = array.shape(axis + 1);
  rows.row_stride = array.strides(axis);
  MEMCORE_CHECK(rows.dim <= 1 || array.size() == 0 || array.strides(axis + 1) == array.itemsize(),
                kShape, op, ": ", name, " has components apart, should have them side by side");
  rows.offsets = batch_offsets(array, 2);
  return rows;
}

BatchItems batch_items(const char* op, const char* name, const py::array& array, int64_t n_own,
                       int64_t batches, int64_t n_rows, int64_t n_items, int64_t item_bytes) {
  const int64_t last = array.ndim() - 1;
  MEMCORE_CHECK(
      array.ndim() >= n_own && n_batches(array, n_own) == batches && array.shape(last) == n_items &&
          (n_own == 1 || array.shape(last - 1) == n_rows) && array.itemsize() == item_bytes,
      kShape, op, ": ", name, " does not fit the queries and keys");
  return {static_cast<const uint8_t*>(array.data()), n_own == 1 ? 0 : array.strides(last - 1),
          array.strides(last), batch_offsets(array, n_own)};
}

// Calls run(Real{}) with the type that the sums are made in.
template <class Run>
void with_real(bool doubles, const Run& run) {
  if (doubles) {
    run(double{});
  } else {
    run(float{});
  }
}

void check_queries(const char* op, const BatchRows& queries, int64_t batches) {
  for (int64_t batch = 0; batch < batches; ++batch) {
    for (int64_t q = 0; q < queries.n_rows; ++q) {
      double square = 0;
      if (queries.is_double) {
        std::vector<double> row(queries.dim);
        read_row(queries, batch, q, row.data());
        for (const double x : row) square += x * x;
      } else {
        const void* row = queries.row(batch, q);
        float sum;
        kernels().square_rows(&row, queries.dtype, 1, queries.dim, &sum);
        square = sum;
      }
      MEMCORE_CHECK(square <= 1e36, kInput, op, ": queries row ", batch * queries.n_rows + q,
                    " is not finite or too large, should be finite with a squared norm of at most "
                    "1e36");
    }
  }
}

// The arguments that attend and its gradients share.
struct Arguments {
  Arguments(const char* op, const py::array& queries, const py::array& keys, const Maybe& values,
            const py::array& beta, const Maybe& bias, const Maybe& mask, const Maybe& exclude)
      : doubles(is_double(queries)) {
    const int64_t batches = n_batches(queries, 2);
    task.n_batches = batches;
    task.queries = batch_rows(op, "queries", queries, batches, doubles);
    task.keys = batch_rows(op, "keys", keys, batches, doubles);
    MEMCORE_CHECK(task.keys.dim == task.queries.dim, kShape, op, ": keys has dim ", task.keys.dim,
                  ", should be ", task.queries.dim);
    const int64_t n_queries = task.queries.n_rows, n_keys = task.keys.n_rows;
    if (values) {
      task.values = batch_rows(op, "values", *values, batches, doubles);
      MEMCORE_CHECK(task.values.n_rows == n_keys, kShape, op, ": values has ", task.values.n_rows,
                    " rows, should have ", n_keys);
    }
    task.beta = plain<double>(op, "beta", beta, batches);
    if (bias) task.bias = batch_items(op, "bias", *bias, 1, batches, 0, n_keys, real_bytes());
    if (mask) task.mask = batch_items(op, "mask", *mask, 2, batches, n_queries, n_keys, 1);
    if (exclude) task.exclude = plain<int64_t>(op, "exclude", *exclude, batches * n_queries);
  }
  int64_t real_bytes() const { return doubles ? sizeof(double) : sizeof(float); }
  int64_t n_queries() const { return task.n_batches * task.queries.n_rows; }
  int64_t n_keys() const { return task.n_batches * task.keys.n_rows; }
  int64_t value_dim() const { return task.values.data == nullptr ? 0 : task.values.dim; }

  bool doubles;
  AttendTask task;
};

void bind_attend(const py::array& queries, const py::array& keys, const Maybe& values,
                 const py::array& beta, const Maybe& bias, const Maybe& mask, const Maybe& exclude,
                 Maybe& out, py::array& lse) {
  const Arguments a("attend", queries, keys, values, beta, bias, mask, exclude);
  MEMCORE_CHECK(values.has_value() == out.has_value(), kShape,
                "attend: out and values should come together");
  with_real(a.doubles, [&](auto type) {
    using Real = decltype(type);
    Real* lse_out = plain_output<Real>("attend", "lse", lse, a.n_queries());
    Real* values_out =
        out ? plain_output<Real>("attend", "out", *out, a.n_queries() * a.value_dim()) : nullptr;
    interruptible([&](Interrupt& interrupt) {
      const FloatEnv env;
      check_queries("attend", a.task.queries, a.task.n_batches);
      attend<Real>(a.task, interrupt, values_out, lse_out);
    });
  });
}

template <class Real>
Real* maybe_output(const char* name, Maybe& array, int64_t n) {
  return array ? plain_output<Real>("attend_backward", name, *array, n) : nullptr;
}

void bind_attend_backward(const py::array& queries, const py::array& keys, const Maybe& values,
                          const py::array& beta, const Maybe& bias, const Maybe& mask,
                          const Maybe& exclude, const py::array& lse, const Maybe& out_grad,
                          const py::array& shift, Maybe& query_grad, Maybe& key_grad,
                          Maybe& value_grad, Maybe& bias_grad, Maybe& beta_grad) {
  const char* op = "attend_backward";
  const Arguments a(op, queries, keys, values, beta, bias, mask, exclude);
  MEMCORE_CHECK(values.has_value() == out_grad.has_value(), kShape, op,
                ": out_grad and values should come together");
  with_real(a.doubles, [&](auto type) {
    using Real = decltype(type);
    AttendGradients<Real> gradients;
    gradients.lse = plain<Real>(op, "lse", lse, a.n_queries());
    gradients.shift = plain<Real>(op, "shift", shift, a.n_queries());
    if (out_grad) {
      gradients.out = batch_rows(op, "out_grad", *out_grad, a.task.n_batches, a.doubles);
      MEMCORE_CHECK(
          gradients.out.n_rows == a.task.queries.n_rows && gradients.out.dim == a.value_dim(),
          kShape, op, ": out_grad does not fit the queries and values");
    }
    const int64_t dim = a.task.keys.dim;
    gradients.queries = maybe_output<Real>("query_grad", query_grad, a.n_queries() * dim);
    gradients.keys = maybe_output<Real>("key_grad", key_grad, a.n_keys() * dim);
    gradients.values = maybe_output<Real>("value_grad", value_grad, a.n_keys() * a.value_dim());
    gradients.bias = maybe_output<Real>("bias_grad", bias_grad, a.n_keys());
    gradients.beta = maybe_output<double>("beta_grad", beta_grad, a.task.n_batches);
    interruptible([&](Interrupt& interrupt) {
      const FloatEnv env;
      attend_backward<Real>(a.task, gradients, interrupt);
    });
  });
}

NamedRows named_rows(const char* op, const py::array& ids, int64_t batches, int64_t n_queries,
                     int64_t n_rows) {
  MEMCORE_CHECK(ids.ndim() >= 2 && ids.shape(ids.ndim() - 2) == n_queries, kShape, op,
                ": ids does not fit, should be (…, ", n_queries, ", n_ids)");
  const int64_t n_ids = ids.shape(ids.ndim() - 1);
  const int64_t n_pairs = batches * n_queries * n_ids;
  const NamedRows named = {batches, n_queries, n_ids, plain<int64_t>(op, "ids", ids, n_pairs)};
  for (int64_t i = 0; i < n_pairs; ++i) {
    MEMCORE_CHECK(named.ids[i] >= -1 && named.ids[i] < n_rows, kInput, op, ": ids has ",
                  named.ids[i], " at ", i, ", should be from -1 to ", n_rows - 1);
  }
  return named;
}

void bind_dots(const py::array& queries, const py::array& keys, const py::array& ids,
               py::array& scores) {
  const bool doubles = is_double(queries);
  const int64_t batches = n_batches(queries, 2);
  const BatchRows asked = batch_rows("dots", "queries", queries, batches, doubles);
  const BatchRows rows = batch_rows("dots", "keys", keys, batches, doubles);
  MEMCORE_CHECK(asked.dim == rows.dim, kShape, "dots: keys has dim ", rows.dim, ", should be ",
                asked.dim);
  const NamedRows named = named_rows("dots", ids, batches, asked.n_rows, rows.n_rows);
  with_real(doubles, [&](auto type) {
    using Real = decltype(type);
    Real* out = plain_output<Real>("dots", "scores", scores, batches * asked.n_rows * named.n_ids);
    interruptible([&](Interrupt& interrupt) {
      const FloatEnv env;
      dots<Real>(named, asked, rows, interrupt, out);
    });
  });
}

void bind_aggregate(const py::array& weights, const py::array& values, const py::array& ids,
                    py::array& out) {
  const bool doubles = is_double(weights);
  const int64_t batches = n_batches(values, 2);
  MEMCORE_CHECK(weights.ndim() >= 2, kShape, "aggregate: weights has ", weights.ndim(), " axes");
  const int64_t n_queries = weights.shape(weights.ndim() - 2);
  const BatchRows rows = batch_rows("aggregate", "values", values, batches, doubles);
  const NamedRows named = named_rows("aggregate", ids, batches, n_queries, rows.n_rows);
  with_real(doubles, [&](auto type) {
    using Real = decltype(type);
    const Real* given =
        plain<Real>("aggregate", "weights", weights, batches * n_queries * named.n_ids);
    Real* sums = plain_output<Real>("aggregate", "out", out, batches * n_queries * rows.dim);
    interruptible([&](Interrupt& interrupt) {
      const FloatEnv env;
      aggregate<Real>(named, given, rows, interrupt, sums);
    });
  });
}

void bind_scatter(const py::array& weights, const py::array& rows, const py::array& ids,
                  int64_t n_sums, py::array& sums) {
  const bool doubles = is_double(weights);
  const int64_t batches = n_batches(rows, 2);
  const BatchRows given_rows = batch_rows("scatter", "rows", rows, batches, doubles);
  const NamedRows named = named_rows("scatter", ids, batches, given_rows.n_rows, n_sums);
  with_real(doubles, [&](auto type) {
    using Real = decltype(type);
    const Real* given =
        plain<Real>("scatter", "weights", weights, batches * given_rows.n_rows * named.n_ids);
    Real* out = plain_output<Real>("scatter", "sums", sums, batches * n_sums * given_rows.dim);
    interruptible([&](Interrupt& interrupt) {
      const FloatEnv env;
      scatter<Real>(named, given, given_rows, n_sums, interrupt, out);
    });
  });
}

}  // namespace

void register_attend(py::module_& m) {
  m.def("attend", &bind_attend, py::arg("queries"), py::arg("keys"), py::arg("values"),
        py::arg("beta"), py::arg("bias"), py::arg("mask"), py::arg("exclude"), py::arg("out"),
        py::arg("lse"),
        "Softmax over all keys, written to out and lse; without values, lse alone.");
  m.def("attend_backward", &bind_attend_backward, py::arg("queries"), py::arg("keys"),
        py::arg("values"), py::arg("beta"), py::arg("bias"), py::arg("mask"), py::arg("exclude"),
        py::arg("lse"), py::arg("out_grad"), py::arg("shift"), py::arg("query_grad"),
        py::arg("key_grad"), py::arg("value_grad"), py::arg("bias_grad"), py::arg("beta_grad"),
        "The gradients of attend that are not None.");
  m.def("dots", &bind_dots, py::arg("queries"), py::arg("keys"), py::arg("ids"), py::arg("scores"),
        "Dot products with named rows, written to scores; 0 where an id is -1.");
  m.def("aggregate", &bind_aggregate, py::arg("weights"), py::arg("values"), py::arg("ids"),
        py::arg("out"), "Weighted sums of named rows, written to out.");
  m.def("scatter", &bind_scatter, py::arg("weights"), py::arg("rows"), py::arg("ids"),
        py::arg("n_sums"), py::arg("sums"),
        "Rows added, by weight, to the sums that ids name; sums are zero before.");
}

}  // namespace memcore
