/* The job file to begin with: it loads to the job that its flags mean, and so does every line of it
 * that is behind `#` once the sign is taken away. */
#include "job_case.h"

#include "kd/buf.h"

#include <stdio.h>

#define BASE                                                                                       \
    "name=t", "data.labelled.path=flowers", "data.labelled.train=train.txt",                       \
        "data.labelled.val=val.txt", "student.model=shallow_cnn"

static const char *const g_cases[][12] = {
    {BASE, "teacher.model=mobilenet_v2", "teacher.fine_tune.epochs=4"},
    {BASE, "teacher.model=onnx", "teacher.weights=net.onnx", "scratch={}", "distill.epochs=3"},
    {BASE, "distill.loss.kd=0", "distill.loss.ce=1"},
    {BASE, "teacher.model=mlp", "teacher.hidden=[32, 16]", "teacher.fine_tune.optimizer.name=sgd",
     "teacher.fine_tune.optimizer.momentum=0.9", "data.augment=[flip, {crop: {pad: 2}}]",
     "data.labelled.classes='a: b # c'", "cluster.max_workers=3"},
    {"name=t", "data.labelled.path=mnist", "data.labelled.format=idx", "data.labelled.train=i",
     "data.labelled.train_labels=l", "data.labelled.val_share=0.1", "student.model=lenet",
     "teacher.model=resnet18", "teacher.weights=job:0123456789ab", "export=[onnx]",
     "data.unlabelled.path=more"},
};

static int count_of(const char *const *sets)
{
    int n = 0;
    while (n < 12 && sets[n])
        n++;
    return n;
}

static char *resolve(const char *text, const char *const *sets, int n)
{
    kd_job job;
    kd_diag diag = {0};
    char *json = NULL;
    accept_sets(text, sets, n, &job);
    kd_assert_ok(kd_job_resolved(&job, &json, &diag), &diag);
    return json;
}

static char *template_of(size_t i, bool all)
{
    char *text = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_job_template(g_cases[i], count_of(g_cases[i]), all, &text, &diag), &diag);
    return text;
}

static void test_job_template_is_the_job(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(g_cases); i++)
        for (int all = 0; all < 2; all++) {
            char *text = template_of(i, all), *got = resolve(text, NULL, 0);
            char *wanted = resolve("{}", g_cases[i], count_of(g_cases[i]));
            assert_string_equal(got, wanted);
            free(text);
            free(got);
            free(wanted);
        }
}

/* The text without the sign of the line at p, and of the mappings around it. */
static char *uncomment(const char *text, const char *p)
{
    kd_buf b;
    kd_buf_init(&b, 1 << 20);
    size_t indent = strspn(p, " ") + 1;
    /* Backwards over what is further out. */
    bool *taken = calloc(strlen(text) + 1, sizeof *taken);
    for (const char *l = p;; l--) {
        bool begins = l == text || l[-1] == '\n';
        size_t blanks = strspn(l, " ");
        if (begins && l[blanks] != '\n' && (l == p || blanks < indent)) {
            indent = blanks;
            taken[l - text] = l[blanks] == '#' && l[blanks + 1] == ' ';
        }
        if (l == text || (begins && blanks == 0 && l != p && l[0] != '\n'))
            break;
    }
    for (const char *l = text; *l; l += strcspn(l, "\n") + 1) {
        size_t n = strcspn(l, "\n"), blanks = strspn(l, " ");
        if (taken[l - text])
            kd_buf_printf(&b, "%*s%.*s\n", (int)blanks, "", (int)(n - blanks - 2), l + blanks + 2);
        else
            kd_buf_printf(&b, "%.*s\n", (int)n, l);
    }
    free(taken);
    return kd_buf_take(&b);
}

/* A path that has no default is to be written, a mapping goes with a key below it. */
static bool has_value(const char *l)
{
    const char *colon = strchr(l, ':');
    return colon[1 + strspn(colon + 1, " ")] != '#';
}

static void test_job_template_lines_can_be_taken(void **state)
{
    (void)state;
    int tried = 0;
    for (size_t i = 0; i < KD_COUNT(g_cases); i++) {
        char *text = template_of(i, false);
        for (const char *l = text; *l; l += strcspn(l, "\n") + 1) {
            size_t blanks = strspn(l, " ");
            if (l[blanks] != '#' || !has_value(l))
                continue;
            kd_job job;
            char *other = uncomment(text, l);
            accept(other, &job);
            free(other);
            tried++;
        }
        free(text);
    }
    assert_true(tried > 100);
}

static void test_job_template_explains(void **state)
{
    (void)state;
    char *few = template_of(0, false), *all = template_of(0, true);
    assert_non_null(strstr(few, "\n    epochs: 4 "));
    assert_non_null(strstr(few, "# divides the logits in kd, dkd, dist and jsd\n"));
    assert_non_null(strstr(few, "# update rule [sgd|adam|adamw]\n"));
    assert_null(strstr(few, "dkd_alpha"));
    assert_non_null(strstr(all, "    # dkd_alpha: 1 "));
    assert_null(strstr(all, "weights_digest"));
    free(few);
    free(all);
}

static void test_job_template_refuses(void **state)
{
    (void)state;
    const char *bad[] = {BASE, "distill.loss.temperatur=2"}, *less[] = {"name=t"};
    char *text = NULL;
    kd_diag diag = {0};
    kd_assert_fails(kd_job_template(bad, KD_COUNT(bad), false, &text, &diag), KD_EINVAL, &diag,
                    "did you mean `temperature`?");
    diag = (kd_diag){0};
    kd_assert_fails(kd_job_template(less, 1, false, &text, &diag), KD_EINVAL, &diag, "data");
    assert_null(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_template_is_the_job),
        cmocka_unit_test(test_job_template_lines_can_be_taken),
        cmocka_unit_test(test_job_template_explains),
        cmocka_unit_test(test_job_template_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
