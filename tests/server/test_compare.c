/* Workers of a stage must agree in everything that they tell of it: every field of StageInfo, found
 * by its descriptor, so that none that is added later is forgotten. */
#include "kd_test.h"

#include "daemon.h"

#include <stdio.h>
#include <string.h>

static void differs(const Distill__V1__StageInfo *a, const Distill__V1__StageInfo *b,
                    const char *field)
{
    char text[KD_CORE_TEXT];
    kd_stage_compare(a, b, text);
    if (text[0] == '\0')
        fail_msg("%s is not compared", field);
}

static void same(const Distill__V1__StageInfo *a, const Distill__V1__StageInfo *b)
{
    char text[KD_CORE_TEXT];
    kd_stage_compare(a, b, text);
    assert_string_equal(text, "");
}

/* Changes a field of `m`, which is of its initial values. */
static void change(Distill__V1__StageInfo *m, const ProtobufCFieldDescriptor *f)
{
    static char *one[] = {"one"};
    void *at = (char *)m + f->offset;
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        assert_int_equal(f->type, PROTOBUF_C_TYPE_STRING);
        *(size_t *)(void *)((char *)m + f->quantifier_offset) = 1;
        *(char ***)at = one;
        return;
    }
    switch (f->type) {
    case PROTOBUF_C_TYPE_UINT32:
        *(uint32_t *)at = 1;
        break;
    case PROTOBUF_C_TYPE_UINT64:
        *(uint64_t *)at = 1;
        break;
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)at = 1;
        break;
    case PROTOBUF_C_TYPE_DOUBLE:
        *(double *)at = 0.5;
        break;
    case PROTOBUF_C_TYPE_STRING:
        *(char **)at = "one";
        break;
    default:
        fail_msg("field %s has a type that this test does not know", f->name);
    }
}

static void every_field(void **state)
{
    (void)state;
    const ProtobufCMessageDescriptor *d = &distill__v1__stage_info__descriptor;
    for (unsigned i = 0; i < d->n_fields; i++) {
        Distill__V1__StageInfo a = DISTILL__V1__STAGE_INFO__INIT, b = a;
        change(&b, &d->fields[i]);
        differs(&a, &b, d->fields[i].name);
        differs(&b, &a, d->fields[i].name);
        same(&b, &b);
    }
}

static void lists(void **state)
{
    (void)state;
    char *ab[] = {"a", "b"}, *ac[] = {"a", "c"};
    Distill__V1__StageInfo a = DISTILL__V1__STAGE_INFO__INIT, b = a;
    a.terms = ab;
    b.terms = ac;
    a.n_terms = b.n_terms = 2;
    differs(&a, &b, "second term");
    b.n_terms = 1;
    differs(&a, &b, "number of terms");
    b = a;
    same(&a, &b);
    b.clip_norm = a.clip_norm = 0.0 / 0.0;
    differs(&a, &b, "a limit that is not a number");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_field), cmocka_unit_test(lists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
