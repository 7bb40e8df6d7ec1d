#include "shoal_kernels.h"

#include <string.h>

/* The product is doubled and its high word taken, rounded half away from zero; then a rounding
 * shift to the right (gemmlowp, fixedpoint.h). Division truncates in C, as is needed here. */
int32_t shoal_rescale(int32_t value, shoal_scale scale)
{
    const int32_t left = scale.shift > 0 ? scale.shift : 0;
    const int32_t right = scale.shift > 0 ? 0 : -scale.shift;
    const int64_t product = (int64_t)value * ((int64_t)1 << left) * scale.multiplier;
    const int64_t nudge = product >= 0 ? ((int64_t)1 << 30) : 1 - ((int64_t)1 << 30);
    const int32_t high = (int32_t)((product + nudge) / ((int64_t)1 << 31));
    const int32_t mask = (int32_t)(((int64_t)1 << right) - 1);
    const int32_t rest = high & mask;
    const int32_t limit = (mask >> 1) + (high < 0 ? 1 : 0);
    return (high >> right) + (rest > limit ? 1 : 0);
}

static int8_t clamp(int32_t value, const shoal_output *out)
{
    value += out->zero_point;
    if (value < out->least) {
        value = out->least;
    }
    if (value > out->most) {
        value = out->most;
    }
    return (int8_t)value;
}

int shoal_gather(const int8_t *table, int32_t rows, int32_t width, const int32_t *ids,
                 int32_t count, int8_t *out)
{
    for (int32_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= rows) {
            return -1;
        }
        memcpy(out + i * width, table + ids[i] * width, (size_t)width);
    }
    return 0;
}

void shoal_conv(const shoal_conv_shape *shape, const int8_t *in, const int8_t *weights,
                const int32_t *bias, const shoal_scale *scale, int8_t *out)
{
    const int32_t size = shape->k * shape->depth;
    for (int32_t c = 0; c < shape->channels; c++) {
        const int8_t *filter = weights + c * size;
        const shoal_scale s = scale[shape->scales == 1 ? 0 : c];
        for (int32_t p = 0; p < shape->positions; p++) {
            const int32_t start = p - shape->left;
            const int32_t first = start > 0 ? start : 0;
            const int32_t end = start + shape->k < shape->width ? start + shape->k : shape->width;
            const int8_t *x = in + first * shape->depth;
            const int8_t *w = filter + (first - start) * shape->depth;
            const int32_t n = (end - first) * shape->depth;
            int32_t sum = bias ? bias[c] : 0;
            for (int32_t i = 0; i < n; i++) {
                sum += (x[i] - shape->zero_point) * w[i];
            }
            out[p * shape->channels + c] = clamp(shoal_rescale(sum, s), &shape->out);
        }
    }
}

void shoal_dense(const shoal_dense_shape *shape, const int8_t *in, const int8_t *weights,
                 const int32_t *bias, const shoal_scale *scale, int8_t *out)
{
    for (int32_t r = 0; r < shape->rows; r++) {
        const int8_t *w = weights + r * shape->n;
        int32_t sum = bias ? bias[r] : 0;
        for (int32_t i = 0; i < shape->n; i++) {
            sum += (in[i] - shape->zero_point) * w[i];
        }
        out[r] = clamp(shoal_rescale(sum, scale[shape->scales == 1 ? 0 : r]), &shape->out);
    }
}

void shoal_mean(int32_t rows, int32_t columns, int32_t zero_point, shoal_scale scale,
                const shoal_output *output, const int8_t *in, int8_t *out)
{
    for (int32_t c = 0; c < columns; c++) {
        int32_t sum = -rows * zero_point;
        for (int32_t r = 0; r < rows; r++) {
            sum += in[r * columns + c];
        }
        out[c] = clamp(shoal_rescale(sum, scale), output);
    }
}

void shoal_max(int32_t rows, int32_t columns, const int8_t *in, int8_t *out)
{
    for (int32_t c = 0; c < columns; c++) {
        int8_t best = in[c];
        for (int32_t r = 1; r < rows; r++) {
            if (in[r * columns + c] > best) {
                best = in[r * columns + c];
            }
        }
        out[c] = best;
    }
}

void shoal_add(const shoal_add_shape *shape, int32_t n, const int8_t *a, const int8_t *b,
               int8_t *out)
{
    for (int32_t i = 0; i < n; i++) {
        const int32_t x = shoal_rescale((a[i] - shape->zero_a) * (1 << 20), shape->a);
        const int32_t y = shoal_rescale((b[i] - shape->zero_b) * (1 << 20), shape->b);
        out[i] = clamp(shoal_rescale(x + shape->sign * y, shape->sum), &shape->out);
    }
}

void shoal_mul(int32_t n, int32_t zero_a, int32_t zero_b, shoal_scale scale,
               const shoal_output *output, const int8_t *a, const int8_t *b, int8_t *out)
{
    for (int32_t i = 0; i < n; i++) {
        out[i] = clamp(shoal_rescale((a[i] - zero_a) * (b[i] - zero_b), scale), output);
    }
}
