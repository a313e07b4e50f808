/* `init` without a data set at hand: what is said of values that it puts in itself. */
#include "client_run.h"

static char *g_dir, *g_out, *g_err;

static int set_up(void **state)
{
    (void)state;
    g_dir = kd_test_mkdir();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kd_test_rmdir(g_dir);
    return 0;
}

#define EXPECT(code, ...)                                                                          \
    kd_run_expect(g_dir, &g_out, &g_err, code, (const char *[]){__VA_ARGS__, NULL})

/* Nobody has given these as --set, however long they are. */
static void test_init_own_values(void **state)
{
    (void)state;
    char net[200] = "nosuch";
    for (size_t n = 6; n < sizeof net - 1; n += 7) {
        memset(net + 6, 'h', n - 6);
        net[n] = '\0';
        EXPECT(2, "init", "--data", "/no/such/flowers", "--teacher", net);
        kd_assert_has(g_err, "\nerror: teacher.model: expected one of");
        kd_run_drop(&g_out, &g_err);
    }
}

/* But these. */
static void test_init_given_values(void **state)
{
    (void)state;
    EXPECT(2, "init", "--data", "/no/such/flowers", "--set", "distill.batch=many");
    kd_assert_has(g_err, "\nerror: --set distill.batch=many: distill.batch: expected");
    kd_run_drop(&g_out, &g_err);
    EXPECT(0, "init", "--data", "/no/such/flowers", "--set", "distill.batch=48", "--name", "mine");
    kd_assert_has(g_out, "\nname: mine");
    kd_assert_has(g_out, "\n  batch: 48");
    kd_run_drop(&g_out, &g_err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init_own_values),
        cmocka_unit_test(test_init_given_values),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
