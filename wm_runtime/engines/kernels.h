// What a compiled program (engines/source.py) calls. LANES matches are reckoned at once: row r of a block is the LANES
// numbers from r * LANES on. Built with LANES = 1 for a few matches, and with some vectors of them for many.
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define PART static __attribute__((noinline)) void

// --- vectors ---

#if defined(__AVX512F__)
static constexpr int W = 16, ACCUMULATORS = 24;
#elif defined(__AVX2__)
static constexpr int W = 8, ACCUMULATORS = 12;
#else
static constexpr int W = 4, ACCUMULATORS = 16;
#endif
typedef float vf __attribute__((vector_size(4 * W)));
typedef int vi __attribute__((vector_size(4 * W)));


static inline vf load(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
static inline vi load(const int *p) { vi v; memcpy(&v, p, sizeof v); return v; }
static inline void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
static inline vi spread(int x) { return x - (vi){}; }


// --- lanes ---
//
// `fl` and `in` are as many lanes as are reckoned together: a vector, or one number where LANES is 1. A truth is an `in`
// of all bits or none.

#if LANES == 1

typedef float fl;
typedef int in;
static constexpr int WIDE = 1;
static inline fl all(float x) { return x; }
static inline in all(int x) { return x; }
static inline fl at(const float *p) { return *p; }
static inline in at(const int *p) { return *p; }
static inline void put(float *p, fl x) { *p = x; }
static inline void put(int *p, in x) { *p = x; }
template <class T> static inline in lt(T a, T b) { return -(int)(a < b); }
template <class T> static inline in le(T a, T b) { return -(int)(a <= b); }
template <class T> static inline in eq(T a, T b) { return -(int)(a == b); }
template <class T> static inline in ne(T a, T b) { return -(int)(a != b); }
static inline fl to_float(in x) { return (float)x; }
static inline in to_int(fl x) { return (int)x; }
static inline fl as_float(in x) { return __builtin_bit_cast(float, x); }
static inline in as_int(fl x) { return __builtin_bit_cast(int, x); }
template <class F> static inline fl by_lane(F f, fl x) { return f(x); }
template <class T, class F> static inline T by_lane(F f, T a, T b) { return f(a, b); }
static inline fl root(fl x) { return std::sqrt(x); }
static inline fl down(fl x) { return std::floor(x); }
static inline fl nearest(fl x) { return std::nearbyint(x); }
static inline fl looked_up(const float *from, in i) { return from[i]; }
static inline in looked_up(const int *from, in i) { return from[i]; }
template <class T> static inline T in_lane(const T *from, in row) { return from[row]; }

#else

typedef vf fl;
typedef vi in;
static constexpr int WIDE = W;
static inline fl all(float x) { return x - (vf){}; }
static inline in all(int x) { return x - (vi){}; }
static inline fl at(const float *p) { return load(p); }
static inline in at(const int *p) { return load(p); }
static inline void put(float *p, fl x) { memcpy(p, &x, sizeof x); }
static inline void put(int *p, in x) { memcpy(p, &x, sizeof x); }
template <class T> static inline in lt(T a, T b) { return a < b; }
template <class T> static inline in le(T a, T b) { return a <= b; }
template <class T> static inline in eq(T a, T b) { return a == b; }
template <class T> static inline in ne(T a, T b) { return a != b; }
static inline fl to_float(in x) { return __builtin_convertvector(x, vf); }
static inline in to_int(fl x) { return __builtin_convertvector(x, vi); }
static inline fl as_float(in x) { return (vf)x; }
static inline in as_int(fl x) { return (vi)x; }
template <class F> static inline fl by_lane(F f, fl x) {
  for (int i = 0; i < W; ++i) x[i] = f(x[i]);
  return x;
}
template <class T, class F> static inline T by_lane(F f, T a, T b) {
  for (int i = 0; i < W; ++i) a[i] = f(a[i], b[i]);
  return a;
}
#if defined(__AVX512F__)
static inline fl root(fl x) { return (vf)_mm512_sqrt_ps((__m512)x); }
static inline fl down(fl x) { return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
static inline fl nearest(fl x) { return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline fl looked_up(const float *from, in i) { return (vf)_mm512_i32gather_ps((__m512i)i, from, 4); }
static inline in looked_up(const int *from, in i) { return (vi)_mm512_i32gather_epi32((__m512i)i, from, 4); }
#elif defined(__AVX2__)
static inline fl root(fl x) { return (vf)_mm256_sqrt_ps((__m256)x); }
static inline fl down(fl x) { return (vf)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
static inline fl nearest(fl x) { return (vf)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline fl looked_up(const float *from, in i) { return (vf)_mm256_i32gather_ps(from, (__m256i)i, 4); }
static inline in looked_up(const int *from, in i) { return (vi)_mm256_i32gather_epi32(from, (__m256i)i, 4); }
#else
static inline fl root(fl x) { return by_lane([](float a) { return std::sqrt(a); }, x); }
static inline fl down(fl x) { return by_lane([](float a) { return std::floor(a); }, x); }
static inline fl nearest(fl x) { return by_lane([](float a) { return std::nearbyint(a); }, x); }
static inline fl looked_up(const float *from, in i) {
  fl x;
  for (int l = 0; l < W; ++l) x[l] = from[i[l]];
  return x;
}
static inline in looked_up(const int *from, in i) {
  for (int l = 0; l < W; ++l) i[l] = from[i[l]];
  return i;
}
#endif
// Row `row` of the block, another one in every lane; `from` is where the first lane's row 0 is.
template <class T> static inline auto in_lane(const T *from, in row) {
  in lane;
  for (int l = 0; l < W; ++l) lane[l] = l;
  return looked_up(from, row * LANES + lane);
}

#endif

#define EACH_VECTOR _Pragma("GCC unroll 8") for (int v = 0, l = 0; l < LANES; ++v, l += WIDE)
static constexpr int V = LANES / WIDE;

template <class T> static inline in gt(T a, T b) { return lt(b, a); }
template <class T> static inline in ge(T a, T b) { return le(b, a); }
static inline fl choose(in which, fl a, fl b) { return which ? a : b; }
static inline in choose(in which, in a, in b) { return which ? a : b; }

// The smaller of two; no number where one is none.
template <class T> static inline T smaller(T a, T b) { return choose(lt(a, b) | ne(a, a), a, b); }
template <class T> static inline T larger(T a, T b) { return choose(lt(b, a) | ne(a, a), a, b); }
template <class T> static inline T least_of(T x, T low) { return choose(lt(x, low), low, x); }
template <class T> static inline T most_of(T x, T high) { return choose(lt(high, x), high, x); }
static inline fl size_of(fl x) { return as_float(as_int(x) & 0x7fffffff); }
static inline in size_of(in x) { return choose(lt(x, all(0)), -x, x); }
static inline fl sign_of(fl x) { return to_float(lt(x, all(0.0f)) - lt(all(0.0f), x)); }
static inline in sign_of(in x) { return lt(x, all(0)) - lt(all(0), x); }
static inline in quotient(in a, in b) {
  return by_lane([](int x, int y) { return y == 0 ? 0 : x / y; }, a, b);
}
static inline in remainder_of(in a, in b) {
  return by_lane([](int x, int y) {
    const int r = y == 0 ? 0 : x % y;
    return r != 0 && (r < 0) != (y < 0) ? r + y : r;
  }, a, b);
}
// An index of `size`, from the end where it is below 0; held within bounds.
static inline in within(in i, int size) {
  const in j = i + (lt(i, all(0)) & size);
  return most_of(least_of(j, all(0)), all(size - 1));
}

// a · b + c, at once where the processor can
static inline fl times(fl a, fl b, fl c) {
#if LANES > 1 && defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LANES > 1 && defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif LANES == 1 && defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// e^x and ln x by the polynomials of Cephes (S. Moshier), within 2 units in the last place.
static inline fl exp_of(fl x) {
  const fl held = least_of(most_of(x, all(88.3f)), all(-87.3f));
  const fl n = nearest(held * 1.44269504088896341f);
  const fl r = times(n, all(2.12194440e-4f), times(n, all(-0.693359375f), held));
  fl p = times(all(1.9875691500e-4f), r, all(1.3981999507e-3f));
  p = times(p, r, all(8.3334519073e-3f));
  p = times(p, r, all(4.1665795894e-2f));
  p = times(p, r, all(1.6666665459e-1f));
  p = times(p, r, all(5.0000001201e-1f));
  const fl y = times(p, r * r, r + 1.0f) * as_float((to_int(n) + 127) << 23);
  return choose(lt(x, all(-87.3f)), all(0.0f), y);
}
static inline fl log_of(fl x) {
  const in bits = as_int(x);
  const fl whole = as_float((bits & 0x007fffff) | 0x3f000000);
  const in low = lt(whole, all(0.707106781186547524f));
  const fl e = to_float((bits >> 23) - 126 + low);
  const fl m = choose(low, whole + whole, whole) - 1.0f;
  fl p = times(all(7.0376836292e-2f), m, all(-1.1514610310e-1f));
  p = times(p, m, all(1.1676998740e-1f));
  p = times(p, m, all(-1.2420140846e-1f));
  p = times(p, m, all(1.4249322787e-1f));
  p = times(p, m, all(-1.6668057665e-1f));
  p = times(p, m, all(2.0000714765e-1f));
  p = times(p, m, all(-2.4999993993e-1f));
  p = times(p, m, all(3.3333331174e-1f));
  const fl z = m * m;
  fl y = times(p, m * z, times(e, all(-2.12194440e-4f), z * -0.5f));
  y = times(e, all(0.693359375f), m + y);
  y = choose(eq(x, all(INFINITY)), x, y);
  return choose(lt(all(0.0f), x), y, choose(eq(x, all(0.0f)), all(-INFINITY), all(NAN)));
}
static inline fl sigmoid_of(fl x) { return 1.0f / (1.0f + exp_of(-x)); }
static inline fl tanh_of(fl x) { return 1.0f - 2.0f / (exp_of(2.0f * x) + 1.0f); }
static inline fl softplus_of(fl x) { return least_of(x, all(0.0f)) + log_of(1.0f + exp_of(-size_of(x))); }

static inline float bits_to_float(int x) { return __builtin_bit_cast(float, x); }
static inline int float_to_bits(float x) { return __builtin_bit_cast(int, x); }

// --- products ---
//
// Weights are words of 32 bits: a float, two of bf16 or four of int8 that follow one another along the inner axis. They
// are packed by tiles of outputs: tile, inner word, output in the tile. With many lanes a tile's accumulators are
// (output, vector of lanes); with one lane, (row, vector of outputs).

enum Precision { FLOAT32 = 0, BF16 = 1, INT8 = 2 };
static constexpr int PER_WORD[] = {1, 2, 4};

static constexpr int VECTORS = LANES >= 2 * W ? 2 : 1;  // of lanes, in one tile
static constexpr int TILE = LANES == 1 ? 4 * W : ACCUMULATORS / VECTORS;

template <int P> using Sum = std::conditional_t<P == INT8, vi, vf>;

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
static inline vi dot(vi sum, vi x, vi w, std::integral_constant<int, INT8>) {  // x without sign, w with it
  return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
}
#endif

// The upper half of a float's bits, rounded to nearest, ties to even; what is left above it is not cleared.
static inline in to_bf16(fl x) {
  const in bits = as_int(x);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
static inline in lower_half(in x) { return x & 0xffff; }

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
          if (precision == BF16) {
            const uint32_t bits = (uint32_t)float_to_bits(x);
            made |= (bits + 0x7fff + (bits >> 16 & 1)) >> 16 << (16 * i);
          }
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
  if constexpr (P == BF16)
    for (int k = 0; k < inner; k += 2, x += 2 * step, out += LANES)
      EACH_VECTOR {
        const fl a = at(x + l), b = k + 1 < inner ? at(x + step + l) : all(0.0f);
        put(out + l, lower_half(to_bf16(a)) | to_bf16(b) << 16);
      }
  if constexpr (P == INT8) {
    fl most[V];
    EACH_VECTOR most[v] = all(1e-30f);
    for (int k = 0; k < inner; ++k) EACH_VECTOR most[v] = least_of(size_of(at(x + k * step + l)), most[v]);
    EACH_VECTOR put(scale + l, most[v] * (1.0f / 127.0f));
    EACH_VECTOR most[v] = 127.0f / most[v];
    for (int k = 0; k < inner; k += 4, x += 4 * step, out += LANES)
      EACH_VECTOR {
        // 128 + 1.5 · 2²³ more, so that the last bits are the whole number, rounded
        in word = all(0);
        for (int i = 3; i >= 0; --i) {
          const fl x_i = k + i < inner ? at(x + i * step + l) : all(0.0f);
          word = word << 8 | (as_int(times(x_i, most[v], all(12583040.0f))) & 255);
        }
        put(out + l, word);
      }
  }
}

template <int P>
static inline void tile(
    const int *x, long step, int words, const int *w, const float *bias, const float *scales, const int *sums,
    const float *scale, float *y, int outputs) {
  constexpr std::integral_constant<int, P> precision;
  Sum<P> sum[TILE][VECTORS];
#pragma GCC unroll 32
  for (int t = 0; t < TILE; ++t)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) {
      if constexpr (P == INT8) sum[t][v] = -sums[t] - (vi){};
      else sum[t][v] = bias[t] - (vf){};
    }
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
        vf made;
        if constexpr (P == INT8)
          made = __builtin_convertvector(sum[t][v], vf) * (load(scale + v * W) * scales[t]) + bias[t];
        else made = sum[t][v];
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
      out[k] = lower_half(to_bf16(a[0])) | to_bf16(2 * k + 1 < inner ? a[step] : 0.0f) << 16;
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
    Sum<P> sum[SETS][4];
    for (int s = 0; s < SETS; ++s)
      for (int v = 0; v < 4; ++v) {
        if constexpr (P == INT8) sum[s][v] = -load(sums + t + v * W);
        else sum[s][v] = load(bias + t + v * W);
      }
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
        vf made;
        if constexpr (P == INT8)
          made = __builtin_convertvector(sum[s][v], vf) * (load(scales + t + v * W) * scale[s]) + load(bias + t + v * W);
        else made = sum[s][v];
        store(out + v * W, made);
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
