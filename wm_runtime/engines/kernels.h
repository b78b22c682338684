// What a compiled program (engines/source.py) calls. LANES matches are reckoned at once: row r of a block is the LANES
// numbers from r * LANES on. Built with LANES = 1 for a few matches, and with some vectors of them for many.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if LANES == 1
#define EACH_LANE for (int l = 0; l < 1; ++l)
#else
#define EACH_LANE _Pragma("omp simd") for (int l = 0; l < LANES; ++l)
#endif
#define PART static __attribute__((noinline)) void

// --- arithmetic of one lane ---

template <class T> static inline T smaller(T a, T b) { return (a < b) | (a != a) ? a : b; }  // NaN if one is
template <class T> static inline T larger(T a, T b) { return (a > b) | (a != a) ? a : b; }
template <class T> static inline T least_of(T x, T low) { return x < low ? low : x; }
template <class T> static inline T most_of(T x, T high) { return x > high ? high : x; }

static inline int quotient(int a, int b) { return b == 0 ? 0 : a / b; }
static inline int remainder_of(int a, int b) {
  const int r = b == 0 ? 0 : a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
static inline int within(int i, int size) {
  const int j = i < 0 ? i + size : i;
  return j < 0 ? 0 : j >= size ? size - 1 : j;
}

static inline float bits_to_float(int x) { return __builtin_bit_cast(float, x); }
static inline int float_to_bits(float x) { return __builtin_bit_cast(int, x); }

// e^x and ln x by the polynomials of Cephes (S. Moshier), within 2 units in the last place.
static inline float exp_of(float x) {
  const float held = x > 88.3f ? 88.3f : x < -87.3f ? -87.3f : x;
  const float n = __builtin_rintf(held * 1.44269504088896341f);
  const float r = held - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = (p * r * r + r + 1.0f) * bits_to_float(((int)n + 127) << 23);
  return x < -87.3f ? 0.0f : y;
}
static inline float log_of(float x) {
  const int bits = float_to_bits(x);
  const float whole = bits_to_float((bits & 0x007fffff) | 0x3f000000);
  const bool small = whole < 0.707106781186547524f;
  const float e = (float)((bits >> 23) - 126 - (small ? 1 : 0));
  const float m = small ? whole + whole - 1.0f : whole - 1.0f;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float z = m * m;
  const float y = m + (p * m * z - e * 2.12194440e-4f - 0.5f * z) + e * 0.693359375f;
  return x > 0.0f ? (x == INFINITY ? x : y) : x == 0.0f ? -INFINITY : NAN;
}
static inline float tanh_of(float x) { return 1.0f - 2.0f / (exp_of(2.0f * x) + 1.0f); }
static inline float softplus_of(float x) { return least_of(x, 0.0f) + log_of(1.0f + exp_of(-std::fabs(x))); }

// --- products ---
//
// Weights are words of 32 bits: a float, two of bf16 or four of int8 that follow one another along the inner axis. They
// are packed by tiles of outputs: tile, inner word, output in the tile. With many lanes a tile's accumulators are
// (output, vector of lanes); with one lane, (row, vector of outputs).

enum Precision { FLOAT32 = 0, BF16 = 1, INT8 = 2 };
static constexpr int PER_WORD[] = {1, 2, 4};

#if defined(__AVX512F__)
static constexpr int W = 16, ACCUMULATORS = 24;
#elif defined(__AVX2__)
static constexpr int W = 8, ACCUMULATORS = 12;
#else
static constexpr int W = 4, ACCUMULATORS = 16;
#endif
typedef float vf __attribute__((vector_size(4 * W)));
typedef int vi __attribute__((vector_size(4 * W)));

static constexpr int VECTORS = LANES >= 2 * W ? 2 : 1;  // of lanes, in one tile
static constexpr int TILE = LANES == 1 ? 4 * W : ACCUMULATORS / VECTORS;

static inline vf load(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
static inline vi load(const int *p) { vi v; memcpy(&v, p, sizeof v); return v; }
static inline void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
static inline vi spread(int x) { return x - (vi){}; }

static inline vf dot(vf sum, vi x, vi w, std::integral_constant<int, FLOAT32>) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)x, (__m512)w, (__m512)sum);
#elif defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)x, (__m256)w, (__m256)sum);
#elif defined(__ARM_NEON)
  return (vf)vfmaq_f32((float32x4_t)sum, (float32x4_t)x, (float32x4_t)w);
#else
  return sum + (vf)x * (vf)w;
#endif
}
#if defined(__AVX512BF16__)
static inline vf dot(vf sum, vi x, vi w, std::integral_constant<int, BF16>) {
  return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
}
#endif
#if defined(__AVX512VNNI__)
static inline vf dot(vf sum, vi x, vi w, std::integral_constant<int, INT8>) {  // x without sign, w with it
  return (vf)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
}
#endif

static inline int to_bf16(float x) {  // rounded to nearest, ties to even
  const uint32_t bits = (uint32_t)float_to_bits(x);
  return (int)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline int words_of(int precision, int inner) {
  return (inner + PER_WORD[precision] - 1) / PER_WORD[precision];
}
static inline int tiles_of(int outer) { return (outer + TILE - 1) / TILE; }

// After the words of int8: by output its scale, and 128 times the sum of its weights (what the zero of x adds).
extern "C" long packed_words(int precision, int inner, int outer) {
  const long padded = (long)tiles_of(outer) * TILE;
  return padded * words_of(precision, inner) + padded * (precision == INT8 ? 3 : 1);
}

// Weights (inner, outer) row by row and biases, packed; the biases come last.
extern "C" void pack(int precision, int inner, int outer, const float *weights, const float *bias, int *out) {
  const int words = words_of(precision, inner), padded = tiles_of(outer) * TILE;
  int *word = out;
  float *scales = (float *)(out + (long)padded * words);
  int *sums = (int *)scales + padded;
  float *biases = precision == INT8 ? (float *)sums + padded : scales;
  for (int o = 0; o < padded; ++o) {
    biases[o] = bias != nullptr && o < outer ? bias[o] : 0.0f;
    if (precision != INT8) continue;
    float most = 1e-30f;
    for (int k = 0; k < inner && o < outer; ++k) most = std::fmax(most, std::fabs(weights[(long)k * outer + o]));
    scales[o] = most / 127.0f;
    sums[o] = 0;
  }
  for (int tile = 0; tile < padded; tile += TILE)
    for (int k = 0; k < words; ++k)
      for (int o = tile; o < tile + TILE; ++o) {
        uint32_t made = 0;
        for (int i = 0; i < PER_WORD[precision]; ++i) {
          const int at = k * PER_WORD[precision] + i;
          const float x = at < inner && o < outer ? weights[(long)at * outer + o] : 0.0f;
          if (precision == FLOAT32) made = (uint32_t)float_to_bits(x);
          if (precision == BF16) made |= (uint32_t)to_bf16(x) << (16 * i);
          if (precision == INT8) {
            const int whole = (int)std::nearbyint(x / scales[o]);
            sums[o] += 128 * whole;
            made |= (uint32_t)(whole & 255) << (8 * i);
          }
        }
        *word++ = (int)made;
      }
}

#if LANES > 1

// One set of lanes as words (words, LANES): two or four rows together. `scale`: by lane, of int8.
template <int P> static inline void words(const float *x, long step, int inner, int *out, float *scale) {
  if constexpr (P == BF16) {
    for (int k = 0; k < inner; k += 2) {
      const float *a = x + k * step, *b = k + 1 < inner ? a + step : a;  // past the end, the weight is 0
      EACH_LANE out[k / 2 * LANES + l] = to_bf16(a[l]) | to_bf16(b[l]) << 16;
    }
  }
  if constexpr (P == INT8) {
    float factor[LANES];
    EACH_LANE factor[l] = 1e-30f;
    for (int k = 0; k < inner; ++k) EACH_LANE factor[l] = larger(factor[l], std::fabs(x[k * step + l]));
    EACH_LANE scale[l] = factor[l] / 127.0f;
    EACH_LANE factor[l] = 127.0f / factor[l];
    for (int k = 0; k < inner; k += 4) {
      int *to = out + k / 4 * LANES;
      EACH_LANE to[l] = 0;
      for (int i = 0; i < 4 && k + i < inner; ++i) {
        const float *a = x + (k + i) * step;
        EACH_LANE to[l] |= ((int)__builtin_rintf(a[l] * factor[l]) + 128) << (8 * i);
      }
    }
  }
}

template <int P>
static inline void tile(
    const int *x, long step, int words, const int *w, const float *bias, const float *scales, const int *sums,
    const float *scale, float *y, int outputs) {
  constexpr std::integral_constant<int, P> precision;
  vf sum[TILE][VECTORS];
#pragma GCC unroll 32
  for (int t = 0; t < TILE; ++t)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) sum[t][v] = P == INT8 ? (vf){} : bias[t] - (vf){};
  for (int k = 0; k < words; ++k, x += step, w += TILE) {
    vi rows[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) rows[v] = load(x + v * W);
#pragma GCC unroll 32
    for (int t = 0; t < TILE; ++t) {
      const vi weight = spread(w[t]);
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; ++v) sum[t][v] = dot(sum[t][v], rows[v], weight, precision);
    }
  }
#pragma GCC unroll 32
  for (int t = 0; t < TILE; ++t)
    if (t < outputs)
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; ++v) {
        vf made = sum[t][v];
        if constexpr (P == INT8) {
          const vi whole = (vi)made - sums[t];
          made = __builtin_convertvector(whole, vf) * (load(scale + v * W) * scales[t]) + bias[t];
        }
        store(y + t * LANES + v * W, made);
      }
}

// `sets` sets of rows (inner, LANES), `apart` from one another, each row `step` after the last, by packed weights, to
// rows (sets, outer, LANES) one after another.
template <int P>
static void product(
    const float *x, long apart, long step, int sets, int inner, int outer, const int *packed, float *y, int *scratch) {
  const int count = words_of(P, inner), padded = tiles_of(outer) * TILE;
  const float *scales = (const float *)(packed + (long)padded * count);
  const int *sums = (const int *)scales + padded;
  const float *bias = P == INT8 ? (const float *)sums + padded : scales;
  float *scale = (float *)scratch;
  int *made = scratch + sets * LANES;
  if constexpr (P != FLOAT32)
    for (int s = 0; s < sets; ++s)
      words<P>(x + s * apart, step, inner, made + (long)s * count * LANES, scale + s * LANES);
  for (int t = 0; t < padded; t += TILE)
    for (int s = 0; s < sets; ++s)
      for (int l = 0; l < LANES; l += VECTORS * W) {
        const int *from = P == FLOAT32 ? (const int *)(x + s * apart) : made + (long)s * count * LANES;
        tile<P>(
            from + l, P == FLOAT32 ? step : LANES, count, packed + (long)t * count, bias + t, scales + t, sums + t,
            scale + s * LANES + l, y + ((long)s * outer + t) * LANES + l, outer - t);
      }
}

#else

template <int P> static inline float words(const float *x, long step, int inner, int *out) {
  float most = 1e-30f;
  if constexpr (P == INT8)
    for (int k = 0; k < inner; ++k) most = larger(most, std::fabs(x[k * step]));
  const float factor = 127.0f / most;
  for (int k = 0; k < words_of(P, inner); ++k) {
    if constexpr (P == FLOAT32) out[k] = float_to_bits(x[k * step]);
    if constexpr (P == BF16) {
      const float *a = x + 2 * k * step;
      out[k] = to_bf16(a[0]) | to_bf16(2 * k + 1 < inner ? a[step] : 0.0f) << 16;
    }
    if constexpr (P == INT8) {
      out[k] = 0;
      for (int i = 0; i < 4 && 4 * k + i < inner; ++i)
        out[k] |= ((int)__builtin_rintf(x[(4 * k + i) * step] * factor) + 128) << (8 * i);
    }
  }
  return most / 127.0f;
}

template <int P, int SETS>
static void product_of(
    const float *x, long apart, long step, int inner, int outer, const int *packed, float *y, int *made) {
  constexpr std::integral_constant<int, P> precision;
  const int count = words_of(P, inner), padded = tiles_of(outer) * TILE;
  const float *scales = (const float *)(packed + (long)padded * count);
  const int *sums = (const int *)scales + padded;
  const float *bias = P == INT8 ? (const float *)sums + padded : scales;
  float scale[SETS];
  for (int s = 0; s < SETS; ++s) scale[s] = words<P>(x + s * apart, step, inner, made + s * count);
  for (int t = 0; t < padded; t += TILE, packed += (long)TILE * count) {
    vf sum[SETS][4];
    for (int s = 0; s < SETS; ++s)
      for (int v = 0; v < 4; ++v) sum[s][v] = P == INT8 ? (vf){} : load(bias + t + v * W);
    for (int k = 0; k < count; ++k)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const vi w = load(packed + k * TILE + v * W);
#pragma GCC unroll 4
        for (int s = 0; s < SETS; ++s) sum[s][v] = dot(sum[s][v], spread(made[s * count + k]), w, precision);
      }
    for (int s = 0; s < SETS; ++s) {
      float out[TILE];
      for (int v = 0; v < 4; ++v) {
        if constexpr (P == INT8) {
          const vi whole = (vi)sum[s][v] - load(sums + t + v * W);
          sum[s][v] = __builtin_convertvector(whole, vf) * (load(scales + t + v * W) * scale[s]) +
                      load(bias + t + v * W);
        }
        store(out + v * W, sum[s][v]);
      }
      memcpy(y + (long)s * outer + t, out, sizeof(float) * (outer - t < TILE ? outer - t : TILE));
    }
  }
}

template <int P>
static void product(
    const float *x, long apart, long step, int sets, int inner, int outer, const int *packed, float *y, int *scratch) {
  if (sets == 2) return product_of<P, 2>(x, apart, step, inner, outer, packed, y, scratch);
  for (int s = 0; s < sets; ++s)
    product_of<P, 1>(x + s * apart, apart, step, inner, outer, packed, y + (long)s * outer, scratch);
}

#endif
