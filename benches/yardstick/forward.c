/* The yardstick: a Llama's forward pass and argmax in plain C and f32, one thread, as straightforward as llama2.c's
 * run.c is and with the same work for each token: matrices row by row, attention position by position, RoPE angles by
 * pow, cos and sin in every layer. Weights are random; time does not depend on them.
 *
 *   gcc -Ofast -march=native benches/yardstick/forward.c -o /tmp/yardstick -lm
 *   /tmp/yardstick D_MODEL D_FF N_LAYERS N_HEADS N_KV_HEADS VOCAB TOKENS
 *
 * It prints the nanoseconds of each of TOKENS steps, one a line. `pageformer bench --yardstick /tmp/yardstick` runs it in
 * turn with the engine. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct layer {
    float *norm1, *wq, *wk, *wv, *wo, *norm2, *gate, *up, *down;
};

/* Uniform in ±scale. */
static float *random_floats(size_t n, float scale) {
    static uint32_t state = 1;
    float *values = malloc(n * sizeof *values);
    if (!values) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = scale * ((float)(state >> 8) / 8388608.0f - 1.0f);
    }
    return values;
}

static float *matrix(int outputs, int inputs) {
    return random_floats((size_t)outputs * inputs, 1.7f / sqrtf(inputs));
}

static void multiply(float *y, const float *w, const float *x, int outputs, int inputs) {
    for (int row = 0; row < outputs; row++) {
        float sum = 0;
        for (int i = 0; i < inputs; i++) sum += w[(size_t)row * inputs + i] * x[i];
        y[row] = sum;
    }
}

static void rms_norm(float *y, const float *x, const float *gain, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    float inverse = 1.0f / sqrtf(sum / n + 1e-5f);
    for (int i = 0; i < n; i++) y[i] = gain[i] * (inverse * x[i]);
}

static void softmax(float *x, int n) {
    float most = x[0], sum = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > most) most = x[i];
    for (int i = 0; i < n; i++) {
        x[i] = expf(x[i] - most);
        sum += x[i];
    }
    for (int i = 0; i < n; i++) x[i] /= sum;
}

static void rotate(float *heads, int width, int head_dim, int position) {
    for (int i = 0; i < width; i += 2) {
        float angle = position / powf(10000.0f, (i % head_dim) / (float)head_dim);
        float c = cosf(angle), s = sinf(angle), a = heads[i], b = heads[i + 1];
        heads[i] = a * c - b * s;
        heads[i + 1] = a * s + b * c;
    }
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: %s D_MODEL D_FF N_LAYERS N_HEADS N_KV_HEADS VOCAB TOKENS\n", argv[0]);
        return 2;
    }
    int d = atoi(argv[1]), ff = atoi(argv[2]), layers = atoi(argv[3]), heads = atoi(argv[4]);
    int kv_heads = atoi(argv[5]), vocab = atoi(argv[6]), tokens = atoi(argv[7]);
    int head_dim = d / heads, kv = kv_heads * head_dim, shared = heads / kv_heads;

    float *embedding = matrix(vocab, d), *final_norm = random_floats(d, 1);
    struct layer *model = calloc(layers, sizeof *model);
    for (int l = 0; l < layers; l++) {
        model[l] = (struct layer){
            random_floats(d, 1), matrix(d, d), matrix(kv, d), matrix(kv, d), matrix(d, d),
            random_floats(d, 1), matrix(ff, d), matrix(ff, d), matrix(d, ff),
        };
    }
    float *x = random_floats(d, 0), *h = random_floats(d, 0), *o = random_floats(d, 0), *q = random_floats(d, 0);
    float *gate = random_floats(ff, 0), *up = random_floats(ff, 0), *logits = random_floats(vocab, 0);
    float *scores = random_floats(tokens, 0);
    float *keys = random_floats((size_t)layers * tokens * kv, 0);
    float *values = random_floats((size_t)layers * tokens * kv, 0);

    int token = 1;
    for (int position = 0; position < tokens; position++) {
        int64_t started = now();
        memcpy(x, embedding + (size_t)token * d, d * sizeof *x);
        for (int l = 0; l < layers; l++) {
            const struct layer *w = &model[l];
            float *layer_keys = keys + (size_t)l * tokens * kv, *k = layer_keys + (size_t)position * kv;
            float *layer_values = values + (size_t)l * tokens * kv, *v = layer_values + (size_t)position * kv;
            rms_norm(h, x, w->norm1, d);
            multiply(q, w->wq, h, d, d);
            multiply(k, w->wk, h, kv, d);
            multiply(v, w->wv, h, kv, d);
            rotate(q, d, head_dim, position);
            rotate(k, kv, head_dim, position);
            for (int head = 0; head < heads; head++) {
                const float *query = q + head * head_dim;
                int from = head / shared * head_dim;
                for (int t = 0; t <= position; t++) {
                    float sum = 0;
                    for (int i = 0; i < head_dim; i++) sum += query[i] * layer_keys[(size_t)t * kv + from + i];
                    scores[t] = sum / sqrtf(head_dim);
                }
                softmax(scores, position + 1);
                float *out = h + head * head_dim;
                memset(out, 0, head_dim * sizeof *out);
                for (int t = 0; t <= position; t++)
                    for (int i = 0; i < head_dim; i++)
                        out[i] += scores[t] * layer_values[(size_t)t * kv + from + i];
            }
            multiply(o, w->wo, h, d, d);
            for (int i = 0; i < d; i++) x[i] += o[i];
            rms_norm(h, x, w->norm2, d);
            multiply(gate, w->gate, h, ff, d);
            multiply(up, w->up, h, ff, d);
            for (int i = 0; i < ff; i++) up[i] *= gate[i] / (1.0f + expf(-gate[i]));
            multiply(o, w->down, up, d, ff);
            for (int i = 0; i < d; i++) x[i] += o[i];
        }
        rms_norm(x, x, final_norm, d);
        multiply(logits, embedding, x, vocab, d);
        token = 0;
        for (int i = 1; i < vocab; i++)
            if (logits[i] > logits[token]) token = i;
        printf("%lld\n", (long long)(now() - started));
    }
    return 0;
}
