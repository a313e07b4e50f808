/* Job files that are shown or shipped load as they are: the examples of docs/jobs.md, which between
 * them must use every key, and all files of docs/report and deploy. */
#include "job_case.h"

#include "job/sweep.h"
#include "kd/file.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>

static void load_all(const char *text, size_t len, const char *file)
{
    kd_job j = {0};
    kd_sweep sweep = {0};
    kd_diag diag = {0};
    kd_assert_ok(kd_job_load(text, len, file, NULL, 0, &j, &diag), &diag);
    round_trip(&j);
    kd_assert_ok(kd_sweep_load(text, len, file, NULL, 0, &sweep, &diag), &diag);
    kd_sweep_free(&sweep);
}

static void test_job_docs_examples(void **state)
{
    (void)state;
    static const char open[] = "\n```yaml\n", close[] = "\n```\n";
    char *text = NULL, name[64];
    size_t len = 0;
    int n = 0;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_read("docs/jobs.md", 1 << 18, &text, &len, &diag), &diag);
    for (char *p = text; (p = strstr(p, open));) {
        p += sizeof open - 1;
        char *end = strstr(p, close);
        assert_non_null(end);
        snprintf(name, sizeof name, "docs/jobs.md, example %d", ++n);
        load_all(p, (size_t)(end - p) + 1, name);
        p = end;
    }
    assert_true(n >= 12);
    free(text);
}

/* Every key is explained, and stands in the JSON Schema below its mapping. */
static void test_job_docs_explained(void **state)
{
    (void)state;
    char *table = NULL, *more = NULL, *text = NULL, *schema = NULL;
    kd_diag diag = {0};
    assert_int_equal(kd_job_schema(&table), 0);
    assert_int_equal(kd_job_json_schema(&schema), 0);
    json_t *root = json_loads(schema, 0, NULL);
    assert_non_null(root);
    int keys = 0;
    for (char *line = strtok_r(table, "\n", &more); line; line = strtok_r(NULL, "\n", &more)) {
        char *key = line, *part, *rest = NULL;
        line[strcspn(line, " ")] = '\0';
        if (!key[0] || strcmp(key, "KEY") == 0 || strcmp(key, "compress") == 0 ||
            strstr(key, "weights_digest") || strcmp(key, "teacher.probe") == 0)
            continue;
        kd_assert_ok(kd_job_explain(key, &text, &diag), &diag);
        assert_true(strncmp(text, key, strlen(key)) == 0);
        free(text);
        kd_assert_ok(kd_job_explain_json(key, &text, &diag), &diag);
        json_t *o = json_loads(text, 0, NULL);
        assert_string_equal(json_string_value(json_object_get(o, "key")), key);
        assert_true(json_string_length(json_object_get(o, "meaning")) > 0);
        json_decref(o);
        free(text);
        const char *listed, *meaning;
        for (int i = 0; (listed = kd_job_key(i, &meaning)) && strcmp(listed, key) != 0;)
            i++;
        assert_non_null(listed);
        const json_t *at = root;
        for (part = strtok_r(key, ".", &rest); part; part = strtok_r(NULL, ".", &rest)) {
            const json_t *one = json_array_get(json_object_get(at, "anyOf"), 0);
            at = json_object_get(json_object_get(one ? one : at, "properties"), part);
            assert_non_null(at);
        }
        keys++;
    }
    assert_true(keys > 100);
    kd_assert_fails(kd_job_explain("distill.los.temperature", &text, &diag), KD_ENOENT, &diag,
                    "did you mean distill.loss.temperature?");
    kd_assert_fails(kd_job_explain("distill.loss.temp", &text, &diag), KD_ENOENT, &diag,
                    "did you mean distill.loss.temperature?");
    kd_assert_fails(kd_job_explain_json("distill.loss.t", &text, &diag), KD_ENOENT, &diag,
                    "no key \"distill.loss.t\"");
    kd_assert_ok(kd_job_explain(NULL, &text, &diag), &diag);
    assert_non_null(strstr(text, "student"));
    free(text);
    json_decref(root);
    free(schema);
    free(table);
}

/* The page tells of every key of the schema by its last part. */
static void test_job_docs_complete(void **state)
{
    (void)state;
    char *page = NULL, *table = NULL, *more = NULL;
    size_t len = 0;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_read("docs/jobs.md", 1 << 18, &page, &len, &diag), &diag);
    assert_int_equal(kd_job_schema(&table), 0);
    int keys = 0;
    for (char *line = strtok_r(table, "\n", &more); line; line = strtok_r(NULL, "\n", &more)) {
        char *key = line, *leaf;
        line[strcspn(line, " ")] = '\0';
        if (!key[0] || strcmp(key, "KEY") == 0 || strcmp(key, "compress") == 0)
            continue;
        leaf = strrchr(key, '.') ? strrchr(key, '.') + 1 : key;
        /* The server fills this one in. */
        if (strcmp(leaf, "weights_digest") == 0)
            continue;
        keys++;
        if (!strstr(page, leaf))
            fail_msg("docs/jobs.md does not mention %s", key);
    }
    assert_true(keys > 100);
    free(page);
    free(table);
}

static int load_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        size_t name_len = strlen(e->d_name);
        char path[512], *text = NULL;
        size_t len = 0;
        kd_diag diag = {0};
        if (name_len < 6 || strcmp(e->d_name + name_len - 5, ".yaml") != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        kd_assert_ok(kd_file_read(path, 1 << 18, &text, &len, &diag), &diag);
        /* Other programs' files live there too. */
        if (strncmp(text, "name:", 5) == 0 || strstr(text, "\nname:")) {
            load_all(text, len, path);
            n++;
        }
        free(text);
    }
    closedir(dir);
    return n;
}

static void test_job_docs_files(void **state)
{
    (void)state;
    assert_true(load_folder("docs/report") >= 13);
    assert_true(load_folder("deploy") >= 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_docs_examples),
        cmocka_unit_test(test_job_docs_complete),
        cmocka_unit_test(test_job_docs_explained),
        cmocka_unit_test(test_job_docs_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
