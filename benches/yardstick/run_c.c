/* llama2.c's own forward pass as a yardstick: whatever `run.c` you have, single-threaded, with random weights (time does not
 * depend on them) and a warm-up pass that is not counted.
 *
 *   gcc -Ofast -march=native -DTESTING '-DRUN_C="/path/to/llama2.c/run.c"' benches/yardstick/run_c.c -o /tmp/run_c -lm
 *   pageformer bench card/ --yardstick /tmp/run_c
 *
 * It prints the nanoseconds of each of TOKENS greedy steps, one a line, as forward.c does. TESTING leaves out run.c's main. */
#include RUN_C

static float *random_floats(size_t n) {
    uint32_t state = 1;
    float *values = malloc(n * sizeof *values);
    if (!values) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = 0.2f * ((float)(state >> 8) / 8388608.0f - 1.0f);
    }
    return values;
}

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(int argc, char **argv) {
    int numbers[8];
    if (argc != 8) {
        fprintf(stderr, "usage: %s D_MODEL D_FF N_LAYERS N_HEADS N_KV_HEADS VOCAB TOKENS\n", argv[0]);
        return 2;
    }
    for (int i = 1; i < 8; i++) numbers[i] = atoi(argv[i]);
    int tokens = numbers[7];
    static Transformer transformer;
    Config *config = &transformer.config;
    *config = (Config){.dim = numbers[1], .hidden_dim = numbers[2], .n_layers = numbers[3], .n_heads = numbers[4],
        .n_kv_heads = numbers[5], .vocab_size = numbers[6], .seq_len = tokens < 256 ? 256 : tokens};

    /* Everything that memory_map_weights looks for, with a head that is the embedding. */
    size_t dim = config->dim, hidden = config->hidden_dim, head = dim / config->n_heads;
    size_t layer = 2 * dim + 2 * dim * dim + 2 * dim * head * config->n_kv_heads + 3 * dim * hidden;
    size_t all = dim * config->vocab_size + config->n_layers * layer + dim + config->seq_len * head;
    memory_map_weights(&transformer.weights, config, random_floats(all), 1);
    malloc_run_state(&transformer.state, config);
    Sampler sampler;
    build_sampler(&sampler, config->vocab_size, 0.0f, 0.9f, 1);

    /* Called by pointers that the compiler knows nothing of, as if from elsewhere. */
    float *(*volatile step)(Transformer *, int, int) = forward;
    int (*volatile choose)(Sampler *, float *) = sample;
    for (int counted = 0; counted < 2; counted++) {
        int token = 1;
        for (int position = 0; position < tokens; position++) {
            long long started = now();
            token = choose(&sampler, step(&transformer, token, position));
            if (counted) printf("%lld\n", now() - started);
        }
    }
    return 0;
}
