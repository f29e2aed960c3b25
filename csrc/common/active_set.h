// Two exact active-set methods on a Gram matrix: bounds from below, and the simplex. Both keep a set of free tasks,
// solve for them as if there were no bounds, and go as far towards that solution as the bounds allow.
#pragma once

#include "small.h"

namespace fastgmtl {
namespace {

// Memory of one problem: doubles, and integers for sets.
struct Work {
  double *factor, *x, *z, *q, *s, *norm, *v;  // [n, n] and six times [n]
  int *free_set, *state;                      // [n] each

  FASTGMTL_DEVICE static constexpr int64_t doubles(int64_t n) { return n * n + 6 * n; }
  FASTGMTL_DEVICE Work(double* memory, int* sets, int n)
      : factor(memory),
        x(memory + n * n),
        z(x + n),
        q(z + n),
        s(q + n),
        norm(s + n),
        v(norm + n),
        free_set(sets),
        state(sets + n) {}
};

// States of a task.
constexpr int kBound = 0, kFree = 1, kBlocked = 2;

FASTGMTL_DEVICE inline int collect(const int* state, int n, int* free_set) {
  int m = 0;
  for (int i = 0; i < n; ++i)
    if (state[i] == kFree) free_set[m++] = i;
  return m;
}

FASTGMTL_DEVICE inline void unblock(int* state, int n) {
  for (int i = 0; i < n; ++i)
    if (state[i] == kBlocked) state[i] = kBound;
}

// How far x may go towards z before one of the free tasks gets to 0, and which does; -1 if none.
FASTGMTL_DEVICE inline double reach(const double* x, const double* z, const int* free_set, int m, int* first) {
  double step = 1;
  *first = -1;
  for (int i = 0; i < m; ++i) {
    const double from = x[free_set[i]], to = z[i];
    if (to > 0) continue;
    const double part = from > 0 ? from / (from - to) : 0;
    if (*first < 0 || part < step) step = part, *first = free_set[i];
  }
  return step;
}

// v = argmin over v >= u of v^T G v, by the method of Lawson and Hanson for x = v - u >= 0.
FASTGMTL_DEVICE inline void above(const double* g, int n, const double* u, double* v, const Work& w) {
  for (int i = 0; i < n; ++i) {
    w.x[i] = 0, w.state[i] = kBound, w.q[i] = dot(g + i * n, u, n);
    w.norm[i] = std::sqrt(largest(g[i * n + i], 0)), v[i] = u[i];
  }
  for (int round = 0; round < 20 * n; ++round) {
    double size = 0, best = 0;
    for (int i = 0; i < n; ++i) size += std::fabs(v[i]) * w.norm[i];
    int next = -1;
    for (int i = 0; i < n; ++i) {
      if (w.state[i] != kBound || !(w.norm[i] > 0)) continue;
      // The slope along task i, over what rounding may make of it.
      const double slope = -dot(g + i * n, v, n) / (w.norm[i] * size);
      if (slope > kRounding * n && slope > best) best = slope, next = i;
    }
    if (next < 0) return;
    w.state[next] = kFree;
    for (;;) {
      const int m = collect(w.state, n, w.free_set);
      for (int i = 0; i < m; ++i) {
        for (int j = 0; j <= i; ++j) w.factor[i * m + j] = g[w.free_set[i] * n + w.free_set[j]];
        w.z[i] = -w.q[w.free_set[i]];
      }
      const int done = cholesky(w.factor, m);
      if (done < m) {
        // It depends on the others, along which all is settled: nothing can be won by it.
        const int out = w.state[next] == kFree ? next : w.free_set[done];
        w.state[out] = kBlocked;
        if (w.x[out] == 0) break;
        w.x[out] = 0;
        continue;
      }
      substitute(w.factor, w.z, m);
      int first;
      const double step = reach(w.x, w.z, w.free_set, m, &first);
      for (int i = 0; i < m; ++i) {
        double& x = w.x[w.free_set[i]];
        x = first < 0 ? w.z[i] : x + step * (w.z[i] - x);
      }
      if (first < 0) {
        unblock(w.state, n);
        break;
      }
      w.x[first] = 0, w.state[first] = kBound;
      if (first == next) {
        w.state[first] = kBlocked;
        break;
      }
    }
    for (int i = 0; i < n; ++i) v[i] = u[i] + w.x[i];
  }
}

// x = argmin over the simplex of b^T x + k |J^T x| (b null: of |J^T x|), which is returned.
//
// With H = G + tau 11^T the points of an affinely independent set have a positive definite H, and for those that are
// free the minimum without bounds is x = a / A + r ((B / A) a - c), where a = H^-1 1, c = H^-1 b, A = 1^T a, B = 1^T c:
// a / A is the point of least norm m in their affine hull, and r^2 = m^2 / (k^2 - (b^T c - B^2 / A)) is the best
// compromise with the linear term, which for a smaller k has none: then the bounds stop it.
FASTGMTL_DEVICE inline double simplex(const double* g, int n, const double* b, double k, double* x, const Work& w) {
  double tau = 0;
  int next = 0;
  for (int i = 0; i < n; ++i) {
    const double square = largest(g[i * n + i], 0);
    w.norm[i] = std::sqrt(square), w.state[i] = kBound, x[i] = 0;
    if (square > 0 && (tau == 0 || square < tau)) tau = square;
    const double value = b ? b[i] + k * w.norm[i] : w.norm[i];
    if (value < (b ? b[next] + k * w.norm[next] : w.norm[next])) next = i;
  }
  if (!(tau > 0)) {
    for (int i = 0; i < n; ++i) x[i] = 1.0 / n;
    return 0;
  }
  x[next] = 1, w.state[next] = kFree;
  double square = largest(g[next * n + next], 0);
  for (int round = 0; round < 20 * n; ++round) {
    double size = 0, linear = 0, best = 0;
    for (int i = 0; i < n; ++i) size += x[i] * w.norm[i], w.s[i] = dot(g + i * n, x, n);
    square = largest(dot(x, w.s, n), 0);
    // Nothing but rounding is left of the norm: the simplex has a point with J^T x = 0.
    if (square <= kRounding * n * size * size) return 0;
    const double scale = b ? k / std::sqrt(square) : 1;
    if (b) linear = dot(b, x, n);
    next = -1;
    for (int i = 0; i < n; ++i) {
      if (w.state[i] != kBound) continue;
      const double fall = linear - (b ? b[i] : 0) + scale * (square - w.s[i]);
      const double bound = b ? std::fabs(b[i]) + std::fabs(linear) : 0;
      const double share = fall / (bound + scale * (w.norm[i] + size) * size);
      if (share > kRounding * n && share > best) best = share, next = i;
    }
    if (next < 0) return std::sqrt(square);
    w.state[next] = kFree;
    for (;;) {
      const int m = collect(w.state, n, w.free_set);
      for (int i = 0; i < m; ++i) {
        for (int j = 0; j <= i; ++j) w.factor[i * m + j] = g[w.free_set[i] * n + w.free_set[j]] + tau;
        w.z[i] = 1, w.q[i] = b ? b[w.free_set[i]] : 0;
      }
      const int done = cholesky(w.factor, m);
      if (done < m) {
        const int out = w.state[next] == kFree ? next : w.free_set[done];
        w.state[out] = kBlocked;
        if (x[out] == 0) break;
        const double rest = 1 - x[out];
        x[out] = 0;
        for (int i = 0; i < n; ++i) x[i] /= rest;
        continue;
      }
      substitute(w.factor, w.z, m);
      double total = 0, mixed = 0, own = 0;
      for (int i = 0; i < m; ++i) total += w.z[i];
      bool bounded = true;
      if (b) {
        substitute(w.factor, w.q, m);
        for (int i = 0; i < m; ++i) mixed += w.q[i], own += b[w.free_set[i]] * w.q[i];
        const double along = largest(own - mixed * mixed / total, 0), room = k * k - along;
        bounded = room > kRounding * n * (k * k + std::fabs(own));
        const double r = bounded ? std::sqrt(largest(1 / total - tau, 0) / room) : 1;
        for (int i = 0; i < m; ++i) {
          const double direction = mixed / total * w.z[i] - w.q[i];
          w.z[i] = bounded ? w.z[i] / total + r * direction : direction;
        }
      } else {
        for (int i = 0; i < m; ++i) w.z[i] /= total;
      }
      int first;
      if (bounded) {
        const double step = reach(x, w.z, w.free_set, m, &first);
        for (int i = 0; i < m; ++i) {
          double& value = x[w.free_set[i]];
          value = first < 0 ? w.z[i] : value + step * (w.z[i] - value);
        }
      } else {
        // Ever down along z: to the first bound.
        double step = 0;
        first = -1;
        for (int i = 0; i < m; ++i) {
          if (!(w.z[i] < 0)) continue;
          const double part = x[w.free_set[i]] / -w.z[i];
          if (first < 0 || part < step) step = part, first = w.free_set[i];
        }
        for (int i = 0; first >= 0 && i < m; ++i) x[w.free_set[i]] += step * w.z[i];
      }
      if (first < 0) {
        unblock(w.state, n);
        break;
      }
      x[first] = 0, w.state[first] = kBound;
      if (first == next) {
        w.state[first] = kBlocked;
        break;
      }
    }
  }
  return std::sqrt(square);
}

}  // namespace
}  // namespace fastgmtl
