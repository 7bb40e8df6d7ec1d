/* Integer kernels of a self-contained engine: no heap, no floating point, C99.
 *
 * Arithmetic is that of the reference kernels of TensorFlow Lite Micro: int8 values, int32
 * accumulators, 32-bit fixed-point multipliers with a shift, rounding half away from zero.
 */
#ifndef SHOAL_KERNELS_H
#define SHOAL_KERNELS_H

#include <stdint.h>

/* value = multiplier * 2^(shift - 31) */
typedef struct {
    int32_t multiplier;
    int32_t shift;
} shoal_scale;

/* What a quantised output is clamped and moved by. */
typedef struct {
    int32_t zero_point;
    int32_t least;
    int32_t most;
} shoal_output;

int32_t shoal_rescale(int32_t value, shoal_scale scale);

/* out[i] = table[ids[i]]; 0, or -1 when an id is outside of [0, rows). */
int shoal_gather(const int8_t *table, int32_t rows, int32_t width, const int32_t *ids,
                 int32_t count, int8_t *out);

/* 1 x k convolution, stride 1: in [positions_in, depth], weights [channels, k, depth]. */
typedef struct {
    int32_t width, depth, k, positions, channels, left;
    int32_t zero_point; /* of the input */
    int32_t scales;     /* 1, or one a channel */
    shoal_output out;
} shoal_conv_shape;

void shoal_conv(const shoal_conv_shape *shape, const int8_t *in, const int8_t *weights,
                const int32_t *bias, const shoal_scale *scale, int8_t *out);

/* out[r] = weights[r, :] . in; bias may be NULL. */
typedef struct {
    int32_t n, rows;
    int32_t zero_point;
    int32_t scales;
    shoal_output out;
} shoal_dense_shape;

void shoal_dense(const shoal_dense_shape *shape, const int8_t *in, const int8_t *weights,
                 const int32_t *bias, const shoal_scale *scale, int8_t *out);

void shoal_mean(int32_t rows, int32_t columns, int32_t zero_point, shoal_scale scale,
                const shoal_output *output, const int8_t *in, int8_t *out);
void shoal_max(int32_t rows, int32_t columns, const int8_t *in, int8_t *out);

/* a + b, a - b (sign -1), in 20 extra bits. */
typedef struct {
    int32_t zero_a, zero_b, sign;
    shoal_scale a, b, sum;
    shoal_output out;
} shoal_add_shape;

void shoal_add(const shoal_add_shape *shape, int32_t n, const int8_t *a, const int8_t *b,
               int8_t *out);
void shoal_mul(int32_t n, int32_t zero_a, int32_t zero_b, shoal_scale scale,
               const shoal_output *output, const int8_t *a, const int8_t *b, int8_t *out);

#endif
