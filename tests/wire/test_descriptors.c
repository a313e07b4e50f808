/* The messages themselves, by their descriptors: none contains itself, not even through others,
 * since protobuf-c unpacks by recursion without a limit. */
#include "kd_test.h"

#include "distill.pb-c.h"
#include "health.pb-c.h"
#include "inference.pb-c.h"
#include "reflection.pb-c.h"
#include "reflection_v1alpha.pb-c.h"

/* The messages that a field is within. */
struct path {
    const struct path *up;
    const ProtobufCMessageDescriptor *at;
};

/* A message that contains itself, NULL if none does; counts how many it looked at. */
static const ProtobufCMessageDescriptor *within_itself(const ProtobufCMessageDescriptor *m,
                                                       const struct path *up, size_t *seen)
{
    const struct path here = {up, m};
    const ProtobufCMessageDescriptor *found = NULL;
    for (const struct path *p = up; p; p = p->up)
        if (p->at == m)
            return m;
    ++*seen;
    for (unsigned i = 0; i < m->n_fields && !found; i++)
        if (m->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
            found = within_itself(m->fields[i].descriptor, &here, seen);
    return found;
}

static void test_descriptors_no_message_contains_itself(void **state)
{
    (void)state;
    static const struct {
        const ProtobufCServiceDescriptor *service;
        size_t least; /* messages that a walk comes by */
    } services[] = {
        {&distill__v1__jobs__descriptor, 50},
        {&distill__v1__storage__descriptor, 10},
        {&distill__v1__access__descriptor, 20},
        {&distill__v1__cluster__descriptor, 20},
        {&distill__v1__exchange__descriptor, 20},
        {&grpc__health__v1__health__descriptor, 2},
        {&grpc__reflection__v1__server_reflection__descriptor, 5},
        {&grpc__reflection__v1alpha__server_reflection__descriptor, 5},
        {&inference__grpcinference_service__descriptor, 10},
    };
    for (size_t i = 0; i < KD_COUNT(services); i++) {
        const ProtobufCServiceDescriptor *s = services[i].service;
        size_t seen = 0;
        for (unsigned k = 0; k < 2 * s->n_methods; k++) {
            const ProtobufCMethodDescriptor *method = &s->methods[k / 2];
            const ProtobufCMessageDescriptor *found =
                within_itself(k % 2 ? method->output : method->input, NULL, &seen);
            if (found)
                fail_msg("%s.%s: %s contains itself", s->name, method->name, found->name);
        }
        if (seen < services[i].least)
            fail_msg("%s: only %zu messages were looked at", s->name, seen);
    }
}

/* Two that contain each other, as ONNX's graphs and attributes do. */
static void test_descriptors_the_walk_finds_one(void **state)
{
    (void)state;
    static ProtobufCMessageDescriptor graph, attribute;
    static const ProtobufCFieldDescriptor to_graph = {.type = PROTOBUF_C_TYPE_MESSAGE,
                                                      .descriptor = &graph};
    static const ProtobufCFieldDescriptor to_attribute = {.type = PROTOBUF_C_TYPE_MESSAGE,
                                                          .descriptor = &attribute};
    graph = (ProtobufCMessageDescriptor){.n_fields = 1, .fields = &to_attribute};
    attribute = (ProtobufCMessageDescriptor){.n_fields = 1, .fields = &to_graph};
    size_t seen = 0;
    assert_ptr_equal(within_itself(&graph, NULL, &seen), &graph);
    assert_int_equal(seen, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptors_no_message_contains_itself),
        cmocka_unit_test(test_descriptors_the_walk_finds_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
