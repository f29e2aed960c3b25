// The methods of contract/task_weights.h for one Gram matrix. What is a sum over tasks (`chain`, `row`) may be done by
// as many threads, the rest (`whole`) by one.
#pragma once

#include "../contract/task_weights.h"
#include "active_set.h"

namespace fastgmtl {
namespace {

// Methods that are sums over tasks, of what task i contributes.
FASTGMTL_DEVICE inline bool by_task(Method method) {
  return method == Method::PCGrad || method == Method::GradVac || method == Method::UPGrad;
}

// c = e_i, and as long as it goes against task j, for all others in their order, without its part along j.
FASTGMTL_DEVICE inline void pcgrad(const double* g, int n, int i, const int64_t* order, double* c, double* r) {
  for (int j = 0; j < n; ++j) c[j] = i == j, r[j] = g[i * n + j];
  for (int k = 0; k < n; ++k) {
    const int j = static_cast<int>(order[k]);
    if (j == i || j < 0 || j >= n || !(r[j] < 0) || !(g[j * n + j] > 0)) continue;
    const double a = -r[j] / g[j * n + j];
    c[j] += a;
    for (int m = 0; m < n; ++m) r[m] += a * g[j * n + m];
  }
}

// The same towards a cosine of phi[j]: Wang et al. 2021, equation 3; the cosines are averaged over steps.
FASTGMTL_DEVICE inline void gradvac(const double* g, int n, int i, const int64_t* order, double rate, double* phi,
                                    double* c, double* r) {
  for (int j = 0; j < n; ++j) c[j] = i == j, r[j] = g[i * n + j];
  for (int k = 0; k < n; ++k) {
    const int j = static_cast<int>(order[k]);
    if (j == i || j < 0 || j >= n) continue;
    const double square = dot(c, r, n), norm = std::sqrt(largest(square, 0));
    const double other = std::sqrt(largest(g[j * n + j], 0));
    const double cosine = norm * other > 0 ? largest(-1, smallest(1, r[j] / (norm * other))) : 0;
    const double goal = phi[j], room = std::sqrt(largest(1 - goal * goal, 0));
    if (cosine < goal && other * room > 0) {
      const double a = norm * (goal * std::sqrt(1 - cosine * cosine) - cosine * room) / (other * room);
      c[j] += a;
      for (int m = 0; m < n; ++m) r[m] += a * g[j * n + m];
    }
    // A step with infinite gradients, which an AMP scaler skips, leaves no trace.
    if (cosine == cosine) phi[j] = (1 - rate) * goal + rate * cosine;
  }
}

// What task i contributes to the weights, in w.v; `phi` [T] is its row of the state.
FASTGMTL_DEVICE inline void contribution(const TaskWeightsArgs& args, const double* g, double* phi, int i,
                                         const Work& w) {
  const int n = static_cast<int>(args.tasks);
  if (args.method == Method::PCGrad) return pcgrad(g, n, i, args.order + i * n, w.v, w.q);
  if (args.method == Method::GradVac) return gradvac(g, n, i, args.order + i * n, args.parameter, phi, w.v, w.q);
  for (int j = 0; j < n; ++j) w.s[j] = i == j ? (args.vector ? args.vector[j] : 1.0 / n) : 0;
  above(g, n, w.s, w.v, w);
}

// w = D^-1 C^+ p; `scratch` [n, n]. Tasks without a gradient get 0.
FASTGMTL_DEVICE inline void scaled_inverse(const double* g, int n, const double* p, double* out, double* scratch,
                                           const Work& w) {
  for (int i = 0; i < n; ++i) w.norm[i] = g[i * n + i] > 0 ? 1 / std::sqrt(g[i * n + i]) : 0;
  for (int i = 0; i < n * n; ++i) scratch[i] = g[i] * w.norm[i / n] * w.norm[i % n];
  eigen(scratch, w.factor, n);
  double top = 0;
  for (int i = 0; i < n; ++i) top = largest(top, scratch[i * n + i]), w.s[i] = w.norm[i] > 0 ? (p ? p[i] : 1) : 0;
  for (int i = 0; i < n; ++i) out[i] = 0;
  for (int i = 0; i < n; ++i) {
    if (!(scratch[i * n + i] > kPivot * n * top)) continue;
    const double part = dot(w.factor + i * n, w.s, n) / scratch[i * n + i];
    for (int j = 0; j < n; ++j) out[j] += part * w.factor[i * n + j];
  }
  for (int i = 0; i < n; ++i) out[i] *= w.norm[i];
}

FASTGMTL_DEVICE inline void imtlg(const double* g, int n, bool guard, double* out, double* scratch, const Work& w) {
  scaled_inverse(g, n, nullptr, out, scratch, w);
  double total = 0, size = 0;
  for (int i = 0; i < n; ++i) total += out[i], size += std::fabs(out[i]);
  // Below 0 the quotient goes up for every task; the guard keeps the direction that goes down.
  if (guard) total = std::fabs(total);
  for (int i = 0; i < n; ++i) out[i] = std::fabs(total) > kRounding * n * size ? out[i] / total : 0;
}

FASTGMTL_DEVICE inline void config(const double* g, int n, const double* p, double* out, double* scratch,
                                   const Work& w) {
  scaled_inverse(g, n, p, out, scratch, w);
  double length = 0, square = 0, size = 0;
  for (int i = 0; i < n; ++i) {
    const double along = dot(g + i * n, out, n);
    length += along, square += out[i] * along;
    size += std::fabs(out[i]) * std::sqrt(largest(g[i * n + i], 0));
  }
  for (int i = 0; i < n; ++i) out[i] = square > kRounding * n * size * size ? out[i] * length / square : 0;
}

FASTGMTL_DEVICE inline void aligned(const double* g, int n, const double* p, int mode, double* out, double* scratch,
                                    const Work& w) {
  for (int i = 0; i < n * n; ++i) scratch[i] = g[i];
  eigen(scratch, w.factor, n);
  double top = 0, mean = 0;
  for (int i = 0; i < n; ++i) top = largest(top, scratch[i * n + i]), out[i] = 0;
  int rank = 0;
  for (int i = 0; i < n; ++i) {
    const double value = scratch[i * n + i];
    if (!(value > kRounding * n * top)) continue;
    // Into order, as they come.
    int k = rank++;
    for (; k > 0 && w.s[k - 1] > value; --k) w.s[k] = w.s[k - 1];
    w.s[k] = value, mean += value;
  }
  if (!rank) return;
  const double scale = mode == 0 ? w.s[0] : mode == 1 ? w.s[(rank - 1) / 2] : mean / rank;
  const double least = w.s[0];
  for (int i = 0; i < n; ++i) {
    const double value = scratch[i * n + i];
    if (!(value >= least)) continue;
    double part = 0;
    for (int j = 0; j < n; ++j) part += w.factor[i * n + j] * (p ? p[j] : 1.0 / n);
    part *= std::sqrt(scale / value);
    for (int j = 0; j < n; ++j) out[j] += part * w.factor[i * n + j];
  }
}

// G w = w^(-a) by damped Newton steps on F(w) = w^T G w / 2 - sum h_i w_i^(1 - a) / (1 - a), which is strictly convex,
// in the coordinates y = n w, where the diagonal of G is 1 and h_i = n_i^(a - 1). A task without a gradient gets 0.
FASTGMTL_DEVICE inline void fair(const double* g, int n, double a, double* out, double* scratch, const Work& w) {
  double top = 0;
  for (int i = 0; i < n; ++i) top = largest(top, g[i * n + i]);
  const auto there = [&](int i) { return g[i * n + i] > 0; };
  const double scale = top > 0 ? std::sqrt(top) : 1;
  for (int i = 0; i < n; ++i) {
    const double norm = there(i) ? std::sqrt(g[i * n + i]) / scale : 0;
    w.norm[i] = norm, w.q[i] = norm > 0 ? std::pow(norm, a - 1) : 1;
    for (int j = 0; j < n; ++j)
      scratch[i * n + j] =
          there(i) && there(j) ? g[i * n + j] / std::sqrt(g[i * n + i]) / std::sqrt(g[j * n + j]) : (i == j);
    // The solution for a diagonal matrix.
    out[i] = norm > 0 ? std::pow(w.q[i], 1 / (1 + a)) : 1;
  }
  const auto merit = [&](const double* y) {
    double value = 0;
    for (int i = 0; i < n; ++i) {
      const double power = a == 1 ? std::log(y[i]) : std::pow(y[i], 1 - a) / (1 - a);
      value += 0.5 * y[i] * dot(scratch + i * n, y, n) - w.q[i] * power;
    }
    return value;
  };
  double before = merit(out);
  for (int round = 0; round < 200; ++round) {
    double worst = 0;
    for (int i = 0; i < n; ++i) {
      const double pull = w.q[i] * std::pow(out[i], 1 - a), push = out[i] * dot(scratch + i * n, out, n);
      w.z[i] = pull - push;
      worst = largest(worst, std::fabs(pull - push) / (pull + std::fabs(push)));
      for (int j = 0; j <= i; ++j) w.factor[i * n + j] = out[i] * out[j] * scratch[i * n + j] + (i == j ? a * pull : 0);
    }
    if (worst < kRounding * (n + 4) || cholesky(w.factor, n) < n) break;
    for (int i = 0; i < n; ++i) w.s[i] = w.z[i];
    substitute(w.factor, w.s, n);
    double decrement = 0, down = 0;
    for (int i = 0; i < n; ++i) decrement += w.s[i] * w.z[i], down = largest(down, -w.s[i]);
    double step = down > 0.9 ? 0.9 / down : 1;
    double after = before;
    for (int i = 0; i < 40; ++i, step /= 2) {
      for (int j = 0; j < n; ++j) w.x[j] = out[j] * (1 + step * w.s[j]);
      after = merit(w.x);
      // Close to the minimum its value says nothing more, and whole steps are right.
      if (after <= before - 1e-4 * step * decrement || decrement < 1e-7 * (1 + std::fabs(before))) break;
    }
    double far = 0;
    for (int i = 0; i < n; ++i) out[i] = w.x[i], far = largest(far, out[i]);
    before = after;
    // Done; or no solution: tasks without a common descent direction pull y to infinity.
    if (decrement < 1e-26 || far > 1e9) break;
  }
  const double back = std::pow(scale, -2 / (1 + a));
  for (int i = 0; i < n; ++i) out[i] = there(i) ? out[i] / w.norm[i] * back : 0;
}

// |J^T w| is at most `most`, where that is not 0.
FASTGMTL_DEVICE inline void clip(const double* g, int n, double most, double* out) {
  double square = 0;
  for (int i = 0; i < n; ++i) square += out[i] * dot(g + i * n, out, n);
  if (!(most > 0) || !(square > most * most)) return;
  const double factor = most / std::sqrt(square);
  for (int i = 0; i < n; ++i) out[i] *= factor;
}

FASTGMTL_DEVICE inline void cagrad(const double* g, int n, const double* p, double c, double* out, double* scratch,
                                   const Work& w) {
  double* const b = scratch;
  double square = 0;
  for (int i = 0; i < n; ++i) out[i] = p ? p[i] : 1.0 / n;
  for (int i = 0; i < n; ++i) b[i] = dot(g + i * n, out, n), square += out[i] * b[i];
  const double k = c * std::sqrt(largest(square, 0));
  if (!(k > 0)) return;
  const double norm = simplex(g, n, b, k, w.x, w);
  for (int i = 0; norm > 0 && i < n; ++i) out[i] += k * w.x[i] / norm;
}

FASTGMTL_DEVICE inline void rcgrad(const double* g, int n, int t, const double* omega, double* out) {
  const double square = g[t * n + t], norm = std::sqrt(largest(square, 0));
  out[t] = 1;
  for (int i = 0; i < n; ++i) {
    if (i == t) continue;
    const double own = std::sqrt(largest(g[i * n + i], 0));
    out[i] = ((own > norm ? norm / own : 1) + omega[i]) / 2;
    if (square > 0 && g[i * n + t] < 0) out[t] -= out[i] * g[i * n + t] / square;
  }
}

// The sine below which two gradients are opposite, as far as their products can tell.
constexpr double kOpposite = 1e-7;

FASTGMTL_DEVICE inline void rotated(const double* g, int n, int t, const double* omega, double* out) {
  const double norm = std::sqrt(largest(g[t * n + t], 0));
  out[t] = 1;
  for (int i = 0; i < n; ++i) {
    if (i == t) continue;
    out[i] = 1;
    const double own = std::sqrt(largest(g[i * n + i], 0));
    if (!(g[i * n + t] < 0) || !(own * norm > 0)) continue;
    const double cosine = largest(-1, g[i * n + t] / (own * norm)), sine = std::sqrt(1 - cosine * cosine);
    if (sine < kOpposite) {
      out[i] = 1 - omega[i];
      continue;
    }
    const double angle = std::acos(cosine), turn = (angle - std::acos(0.0)) * omega[i];
    out[i] = std::sin(angle - turn) / sine;
    out[t] += own / norm * std::sin(turn) / sine;
  }
}

// A method that is not a sum over tasks; `scratch` [n, n].
FASTGMTL_DEVICE inline void whole(const TaskWeightsArgs& args, const double* g, double* out, double* scratch,
                                  const Work& w) {
  const int n = static_cast<int>(args.tasks);
  switch (args.method) {
    case Method::MGDA:
      simplex(g, n, nullptr, 0, out, w);
      break;
    case Method::CAGrad:
      cagrad(g, n, args.vector, args.parameter, out, scratch, w);
      break;
    case Method::DualProj:
      for (int i = 0; i < n; ++i) scratch[i] = args.vector ? args.vector[i] : 1.0 / n;
      above(g, n, scratch, out, w);
      break;
    case Method::IMTLG:
      imtlg(g, n, args.parameter != 0, out, scratch, w);
      break;
    case Method::NashMTL:
      fair(g, n, 1, out, scratch, w);
      clip(g, n, args.parameter, out);
      break;
    case Method::FairGrad:
      fair(g, n, 1 / args.parameter, out, scratch, w);
      break;
    case Method::AlignedMTL:
      aligned(g, n, args.vector, static_cast<int>(args.parameter), out, scratch, w);
      break;
    case Method::ConFIG:
      config(g, n, args.vector, out, scratch, w);
      break;
    case Method::RCGrad:
      rcgrad(g, n, static_cast<int>(args.parameter), args.vector, out);
      break;
    case Method::Rotated:
      rotated(g, n, static_cast<int>(args.parameter), args.vector, out);
      break;
    default:
      break;
  }
}

}  // namespace
}  // namespace fastgmtl
