#include "internal.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PARTS 8

struct kd_outgoing {
    struct kd_outgoing *next;
    grpc_byte_buffer *bb;
    size_t len;
};

size_t kd_rpc_parts_len(const struct iovec *parts, int n_parts)
{
    size_t len = 0;
    for (int i = 0; i < n_parts; i++)
        len += parts[i].iov_len;
    return len;
}

grpc_byte_buffer *kd_rpc_join(const struct iovec *parts, int n_parts)
{
    grpc_slice slices[MAX_PARTS];
    KD_BUG_ON(n_parts < 0 || n_parts > MAX_PARTS);
    for (int i = 0; i < n_parts; i++) {
        slices[i] = grpc_slice_malloc(parts[i].iov_len);
        if (parts[i].iov_len)
            memcpy(GRPC_SLICE_START_PTR(slices[i]), parts[i].iov_base, parts[i].iov_len);
    }
    grpc_byte_buffer *bb = grpc_raw_byte_buffer_create(slices, (size_t)n_parts);
    for (int i = 0; i < n_parts; i++)
        grpc_slice_unref(slices[i]);
    return bb;
}

grpc_slice kd_rpc_contiguous(grpc_byte_buffer *bb)
{
    if (bb->type == GRPC_BB_RAW && bb->data.raw.slice_buffer.count == 1)
        return grpc_slice_ref(bb->data.raw.slice_buffer.slices[0]);
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, bb))
        return grpc_empty_slice();
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    return all;
}

uint8_t *kd_rpc_gather(grpc_byte_buffer *bb, size_t *out_len)
{
    size_t len = grpc_byte_buffer_length(bb), at = 0;
    uint8_t *bytes = malloc(len + 1);
    grpc_byte_buffer_reader reader;
    if (!bytes || !grpc_byte_buffer_reader_init(&reader, bb)) {
        free(bytes);
        return NULL;
    }
    grpc_slice *piece;
    while (grpc_byte_buffer_reader_peek(&reader, &piece)) {
        size_t n = GRPC_SLICE_LENGTH(*piece);
        KD_BUG_ON(n > len - at);
        memcpy(bytes + at, GRPC_SLICE_START_PTR(*piece), n);
        at += n;
    }
    grpc_byte_buffer_reader_destroy(&reader);
    *out_len = at;
    return bytes;
}

int kd_outbox_add(kd_outbox *o, grpc_byte_buffer *bb, size_t len)
{
    struct kd_outgoing *m = malloc(sizeof *m);
    if (!m) {
        grpc_byte_buffer_destroy(bb);
        return -KD_ENOMEM;
    }
    *m = (struct kd_outgoing){NULL, bb, len};
    if (o->last)
        o->last->next = m;
    else
        o->first = m;
    o->last = m;
    o->queued += len;
    return 0;
}

grpc_byte_buffer *kd_outbox_next(kd_outbox *o)
{
    struct kd_outgoing *m = o->first;
    if (!m)
        return NULL;
    KD_BUG_ON(o->in_flight);
    o->first = m->next;
    if (!o->first)
        o->last = NULL;
    o->in_flight = m;
    return m->bb;
}

static void release(kd_outbox *o, struct kd_outgoing *m)
{
    o->queued -= m->len;
    grpc_byte_buffer_destroy(m->bb);
    free(m);
}

void kd_outbox_sent(kd_outbox *o)
{
    if (o->in_flight)
        release(o, o->in_flight);
    o->in_flight = NULL;
}

void kd_outbox_clear(kd_outbox *o)
{
    while (o->first) {
        struct kd_outgoing *m = o->first;
        o->first = m->next;
        release(o, m);
    }
    o->last = NULL;
}
