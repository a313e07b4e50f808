/* Reading golden files: JSON of tests/golden, which is ours and therefore trusted; anything missing
 * fails the test. Tests run from the repository root. Include after kd_test.h. */
#ifndef KD_GOLDEN_H
#define KD_GOLDEN_H

#include <jansson.h>
#include <stdlib.h>

static inline json_t *kd_golden_load(const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        fail_msg("%s:%d: %s", path, error.line, error.text);
    return root;
}

static inline json_t *kd_golden_get(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    if (!value)
        fail_msg("no key '%s' in the golden file", key);
    return value;
}

static inline double kd_golden_number(const json_t *object, const char *key)
{
    return json_number_value(kd_golden_get(object, key));
}

/* The number, or `otherwise` where the key is absent. */
static inline double kd_golden_option(const json_t *object, const char *key, double otherwise)
{
    const json_t *value = json_object_get(object, key);
    return value ? json_number_value(value) : otherwise;
}

/* Appends the numbers of an array, nested arrays flattened, to out[n..]; returns the new count. */
static inline size_t kd_golden_flatten(const json_t *array, double *out, size_t n, size_t max)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *item = json_array_get(array, i);
        if (json_is_array(item)) {
            n = kd_golden_flatten(item, out, n, max);
            continue;
        }
        assert_true(n < max && json_is_number(item));
        out[n++] = json_number_value(item);
    }
    return n;
}

/* Exactly n numbers under key as floats. */
static inline void kd_golden_floats(const json_t *object, const char *key, float *out, size_t n)
{
    double *all = malloc((n + 1) * sizeof *all);
    assert_non_null(all);
    assert_int_equal(kd_golden_flatten(kd_golden_get(object, key), all, 0, n + 1), n);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)all[i];
    free(all);
}

#endif
