/* Networks from files, as a stage takes them: those of pictures that its data has not are refused.
 */
#include <stdlib.h>
#include <string.h>

#include "kd_test.h"
#include "models/loaded.h"
#include "models/models.h"
#include "models/onnx.h"
#include "stage_internal.h"

enum { SIZE = 24, CLASSES = 3 };

static const char *const classes[CLASSES] = {"a", "b", "c"};

/* A shallow CNN of so many channels, as a file: .onnx or .safetensors. */
static kd_buf file_of(int channels, bool grey, bool onnx)
{
    const kd_model_config cfg = {
        .model = "shallow_cnn", .size = SIZE, .channels = channels, .classes = CLASSES};
    const kd_model_file_info info = {.model = "shallow_cnn",
                                     .has_preprocess = true,
                                     .grey = grey,
                                     .size = SIZE,
                                     .classes = (char **)(uintptr_t)classes,
                                     .n_classes = CLASSES};
    const kd_onnx_write_options opt = {.opset = 13, .info = &info};
    kd_graph *g;
    kd_diag diag = {0};
    kd_buf out;
    kd_buf_init(&out, 64 << 20);
    kd_assert_ok(kd_model_build(&cfg, &g, &diag), &diag);
    float *vector = kd_xalloc(g->vector_len * sizeof *vector);
    kd_graph_init(g, 5, vector);
    kd_assert_ok(onnx ? kd_onnx_write(g, vector, &opt, &out, &diag)
                      : kd_loaded_pack(g, vector, &info, &out, &diag),
                 &diag);
    free(vector);
    kd_graph_free(g);
    return out;
}

static void free_finished(kd_stage *s)
{
    for (int i = 0; i < s->n_finished; i++) {
        kd_graph_free(s->finished[i].net.graph);
        free(s->finished[i].net.vector);
        kd_model_file_info_clear(&s->finished[i].info);
    }
}

static void test_networks_of_earlier_stages_see_colours(void **state)
{
    (void)state;
    for (int channels = 1; channels <= 3; channels += 2) {
        kd_buf file = file_of(channels, channels == 1, false);
        kd_session *session = kd_xalloc(sizeof *session);
        kd_stage *s = kd_xalloc(sizeof *s);
        session->classes = CLASSES;
        const kd_finished one = {.name = "student", .bytes = (void *)file.data, .len = file.len};
        const kd_stage_config cfg = {.session = session, .finished = &one, .n_finished = 1};
        kd_diag diag = {0};
        s->kind = KD_STAGE_EVALUATE;
        if (channels == 3)
            kd_assert_ok(kd_stage_load_finished(&cfg, s, &diag), &diag);
        else
            kd_assert_fails(kd_stage_load_finished(&cfg, s, &diag), KD_EUNSUP, &diag,
                            "student wants pictures of 1 channel(s); jobs feed 3");
        free_finished(s);
        free(s);
        free(session);
        kd_buf_clear(&file);
    }
}

static void test_networks_from_onnx_see_colours(void **state)
{
    (void)state;
    for (int channels = 1; channels <= 3; channels += 2) {
        kd_buf file = file_of(channels, channels == 1, true);
        kd_session *session = kd_xalloc(sizeof *session);
        kd_stage *s = kd_xalloc(sizeof *s);
        session->classes = CLASSES;
        session->size = SIZE;
        strcpy(session->job.student.model, "onnx");
        strcpy(session->job.student.weights, "net.onnx");
        const kd_train_spec train = {.epochs = 1};
        const kd_stage_config cfg = {
            .session = session, .weights = (void *)file.data, .weights_len = file.len};
        const char *problem;
        kd_diag diag = {0};
        s->kind = KD_STAGE_DISTILL;
        s->train = &train;
        if (channels == 3)
            kd_assert_ok(kd_net_new(&cfg, s, &problem, &diag), &diag);
        else
            kd_assert_fails(kd_net_new(&cfg, s, &problem, &diag), KD_EUNSUP, &diag,
                            "net.onnx wants pictures of 1 channel(s); jobs feed 3");
        kd_graph_free(s->net.graph);
        free(s->net.vector);
        free(s);
        free(session);
        kd_buf_clear(&file);
    }
}

static void test_networks_that_say_another_colour_are_refused(void **state)
{
    (void)state;
    kd_buf file = file_of(3, true, false);
    kd_loaded l = {0};
    kd_diag diag = {0};
    kd_assert_fails(kd_loaded_open((void *)file.data, file.len, "net", &l, &diag), KD_EDATA, &diag,
                    "net says that it is grey, its network has 3 channels");
    kd_loaded_clear(&l);
    kd_buf_clear(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_networks_of_earlier_stages_see_colours),
        cmocka_unit_test(test_networks_from_onnx_see_colours),
        cmocka_unit_test(test_networks_that_say_another_colour_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
