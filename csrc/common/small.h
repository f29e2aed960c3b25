// Small dense linear algebra in float64, for one thread of a processor or of a GPU: no allocation, no library.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define FASTGMTL_DEVICE __host__ __device__
#else
#define FASTGMTL_DEVICE
#endif

namespace fastgmtl {
namespace {

// A pivot below this share of its diagonal is rounding: the row depends on those before it.
constexpr double kPivot = 1e-12;
constexpr double kRounding = 1e-15;  // of a sum of T products, times T

FASTGMTL_DEVICE inline double dot(const double* a, const double* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

FASTGMTL_DEVICE inline double largest(double a, double b) { return a > b ? a : b; }
FASTGMTL_DEVICE inline double smallest(double a, double b) { return a < b ? a : b; }

// The lower triangle of `a` [n, n] becomes its Cholesky factor. Returns n, or the first row whose pivot is too small.
FASTGMTL_DEVICE inline int cholesky(double* a, int n) {
  for (int i = 0; i < n; ++i) {
    const double diagonal = a[i * n + i];
    for (int j = 0; j < i; ++j) a[i * n + j] = (a[i * n + j] - dot(a + i * n, a + j * n, j)) / a[j * n + j];
    const double pivot = diagonal - dot(a + i * n, a + i * n, i);
    if (!(pivot > kPivot * diagonal)) return i;
    a[i * n + i] = std::sqrt(pivot);
  }
  return n;
}

// x = A^-1 x, from the factor.
FASTGMTL_DEVICE inline void substitute(const double* factor, double* x, int n) {
  for (int i = 0; i < n; ++i) x[i] = (x[i] - dot(factor + i * n, x, i)) / factor[i * n + i];
  for (int i = n - 1; i >= 0; --i) {
    x[i] /= factor[i * n + i];
    for (int j = 0; j < i; ++j) x[j] -= factor[i * n + j] * x[i];
  }
}

// Eigenvalues and eigenvectors of the symmetric `a` [n, n] by cyclic Jacobi rotations: a's diagonal becomes the
// values, row i of `v` the vector of a[i][i].
FASTGMTL_DEVICE inline void eigen(double* a, double* v, int n) {
  for (int i = 0; i < n * n; ++i) v[i] = i % (n + 1) ? 0.0 : 1.0;
  for (int sweep = 0; sweep < 40; ++sweep) {
    double off = 0, all = 0;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) {
        all += a[i * n + j] * a[i * n + j];
        if (i != j) off += a[i * n + j] * a[i * n + j];
      }
    if (!(off > 1e-31 * all)) return;
    for (int p = 0; p < n; ++p)
      for (int q = p + 1; q < n; ++q) {
        const double apq = a[p * n + q];
        if (apq == 0) continue;
        const double theta = (a[q * n + q] - a[p * n + p]) / (2 * apq);
        const double t = (theta < 0 ? -1.0 : 1.0) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int k = 0; k < n; ++k) {
          const double x = a[p * n + k], y = a[q * n + k];
          a[p * n + k] = c * x - s * y, a[q * n + k] = s * x + c * y;
          const double vx = v[p * n + k], vy = v[q * n + k];
          v[p * n + k] = c * vx - s * vy, v[q * n + k] = s * vx + c * vy;
        }
        for (int k = 0; k < n; ++k) {
          const double x = a[k * n + p], y = a[k * n + q];
          a[k * n + p] = c * x - s * y, a[k * n + q] = s * x + c * y;
        }
        a[p * n + q] = a[q * n + p] = 0;
      }
  }
}

}  // namespace
}  // namespace fastgmtl
