/* Server reflection from a serialized FileDescriptorSet (google/protobuf/descriptor.proto).
 *
 * The set is ours, made at build time; a small scan takes from it what reflection answers with: the
 * bytes of each file, its dependencies and the full names of what it declares. */
#include "internal.h"

#include "wire/wire.h"

#include "reflection.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILES 64
#define MAX_DEPS 16

struct file {
    const uint8_t *bytes;
    size_t len;
    char name[128];
    char deps[MAX_DEPS][128];
    int n_deps;
};

struct symbol {
    char name[256];
    int file;
};

struct kd_rpc_reflection {
    struct file files[MAX_FILES];
    int n_files;
    struct symbol *symbols;
    int n_symbols;
    char services[32][128];
    int n_services;
};

struct field {
    unsigned number, type;
    const uint8_t *bytes;
    size_t len;
};

/* Next field of a message; 1 = there is one, 0 = end, -1 = damaged. */
static int next_field(const uint8_t **p, const uint8_t *end, struct field *f)
{
    uint64_t v[2] = {0, 0};
    if (*p == end)
        return 0;
    for (int k = 0; k < 2; k++) {
        unsigned shift = 0;
        do {
            if (*p == end || shift > 63)
                return -1;
            v[k] |= (uint64_t)(**p & 0x7f) << shift;
            shift += 7;
        } while (*(*p)++ & 0x80);
        if (k == 0 && ((v[0] & 7) == 1 || (v[0] & 7) == 5))
            return -1; /* descriptors have no fixed-width fields that we need */
        if (k == 0 && (v[0] & 7) == 0)
            continue;
    }
    f->number = (unsigned)(v[0] >> 3);
    f->type = (unsigned)(v[0] & 7);
    f->bytes = *p;
    f->len = 0;
    if (f->type == 2) {
        if (v[1] > (uint64_t)(end - *p))
            return -1;
        f->len = (size_t)v[1];
        *p += f->len;
    }
    return 1;
}

static void copy_text(char *out, size_t size, const struct field *f)
{
    size_t n = KD_MIN(f->len, size - 1);
    memcpy(out, f->bytes, n);
    out[n] = '\0';
}

static void add_symbol(kd_rpc_reflection *r, const char *scope, const char *name, int file)
{
    struct symbol *p = realloc(r->symbols, ((size_t)r->n_symbols + 1) * sizeof *p);
    KD_BUG_ON(!p);
    r->symbols = p;
    struct symbol *s = &r->symbols[r->n_symbols++];
    snprintf(s->name, sizeof s->name, "%.120s%s%.120s", scope, scope[0] ? "." : "", name);
    s->file = file;
}

/* A declaration whose name is field 1; members are the fields whose numbers are in `nested`. */
static int scan_declaration(kd_rpc_reflection *r, const struct field *decl, const char *scope,
                            int file, const unsigned *nested, int depth)
{
    const uint8_t *p = decl->bytes, *end = p + decl->len;
    struct field f;
    char name[128] = "", full[256];
    int rc;
    while ((rc = next_field(&p, end, &f)) == 1)
        if (f.number == 1 && f.type == 2)
            copy_text(name, sizeof name, &f);
    if (rc < 0 || depth > 8)
        return -1;
    add_symbol(r, scope, name, file);
    snprintf(full, sizeof full, "%.120s%s%.120s", scope, scope[0] ? "." : "", name);
    p = decl->bytes;
    while (nested && next_field(&p, end, &f) == 1)
        for (const unsigned *n = nested; *n; n++)
            if (f.type == 2 && f.number == *n &&
                scan_declaration(r, &f, full, file,
                                 f.number == 3 ? nested : NULL, depth + 1) != 0)
                return -1;
    return 0;
}

static int scan_file(kd_rpc_reflection *r, const struct field *file)
{
    static const unsigned in_message[] = {3, 4, 2, 0}; /* nested_type, enum_type, field */
    static const unsigned in_service[] = {2, 0};       /* method */
    if (r->n_files == MAX_FILES)
        return -1;
    int index = r->n_files++;
    struct file *f = &r->files[index];
    f->bytes = file->bytes;
    f->len = file->len;
    const uint8_t *p = file->bytes, *end = p + file->len;
    struct field x;
    char package[128] = "";
    int rc;
    while ((rc = next_field(&p, end, &x)) == 1) {
        if (x.type != 2)
            continue;
        if (x.number == 1)
            copy_text(f->name, sizeof f->name, &x);
        else if (x.number == 2)
            copy_text(package, sizeof package, &x);
        else if (x.number == 3 && f->n_deps < MAX_DEPS)
            copy_text(f->deps[f->n_deps++], sizeof f->deps[0], &x);
    }
    p = file->bytes;
    while (rc == 0 && next_field(&p, end, &x) == 1) {
        if (x.type != 2)
            continue;
        if (x.number == 4)
            rc = scan_declaration(r, &x, package, index, in_message, 0);
        else if (x.number == 5)
            rc = scan_declaration(r, &x, package, index, NULL, 0);
        else if (x.number == 6)
            rc = scan_declaration(r, &x, package, index, in_service, 0);
    }
    return rc;
}

static void add_service(kd_rpc_reflection *r, const char *name)
{
    for (int i = 0; i < r->n_services; i++)
        if (strcmp(r->services[i], name) == 0)
            return;
    if (r->n_services < (int)KD_COUNT(r->services))
        snprintf(r->services[r->n_services++], sizeof r->services[0], "%s", name);
}

int kd_rpc_reflection_new(const void *set, size_t len, const kd_rpc_method *methods, size_t n,
                          kd_rpc_reflection **out, kd_diag *diag)
{
    kd_rpc_reflection *r = kd_xalloc(sizeof *r);
    const uint8_t *p = set, *end = p + len;
    struct field f;
    int rc;
    while ((rc = next_field(&p, end, &f)) == 1)
        if (f.number == 1 && f.type == 2 && (rc = scan_file(r, &f)) != 0)
            break;
    if (rc != 0) {
        kd_rpc_reflection_free(r);
        return kd_fail(diag, -KD_EDATA, "the descriptor set is damaged");
    }
    for (size_t i = 0; i < n; i++) {
        char name[128];
        kd_rpc_service_of(methods[i].path, name, sizeof name);
        add_service(r, name);
    }
    add_service(r, "grpc.health.v1.Health");
    add_service(r, "grpc.reflection.v1.ServerReflection");
    add_service(r, "grpc.reflection.v1alpha.ServerReflection");
    *out = r;
    return 0;
}

void kd_rpc_reflection_free(kd_rpc_reflection *r)
{
    if (!r)
        return;
    free(r->symbols);
    free(r);
}

static int find_file(const kd_rpc_reflection *r, const char *name)
{
    for (int i = 0; i < r->n_files; i++)
        if (strcmp(r->files[i].name, name) == 0)
            return i;
    return -1;
}

static int find_symbol(const kd_rpc_reflection *r, const char *name)
{
    for (int i = 0; i < r->n_symbols; i++)
        if (strcmp(r->symbols[i].name, name) == 0)
            return r->symbols[i].file;
    return -1;
}

static void collect(const kd_rpc_reflection *r, int file, bool wanted[MAX_FILES])
{
    if (file < 0 || wanted[file])
        return;
    wanted[file] = true;
    for (int i = 0; i < r->files[file].n_deps; i++)
        collect(r, find_file(r, r->files[file].deps[i]), wanted);
}

static void send_response(kd_rpc_call *call, const Grpc__Reflection__V1__ServerReflectionResponse *m)
{
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    if (kd_wire_pack(m, &buf) == 0)
        (void)kd_rpc_send(call, &(struct iovec){buf.data, buf.len}, 1);
    kd_buf_clear(&buf);
}

static void answer_files(const kd_rpc_reflection *r, kd_rpc_call *call, int file,
                         Grpc__Reflection__V1__ServerReflectionResponse *m)
{
    Grpc__Reflection__V1__FileDescriptorResponse files =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    ProtobufCBinaryData list[MAX_FILES];
    bool wanted[MAX_FILES] = {0};
    collect(r, file, wanted);
    /* The file itself first, as clients expect. */
    list[files.n_file_descriptor_proto++] =
        (ProtobufCBinaryData){r->files[file].len, (uint8_t *)r->files[file].bytes};
    for (int i = 0; i < r->n_files; i++)
        if (wanted[i] && i != file)
            list[files.n_file_descriptor_proto++] =
                (ProtobufCBinaryData){r->files[i].len, (uint8_t *)r->files[i].bytes};
    files.file_descriptor_proto = list;
    m->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    m->file_descriptor_response = &files;
    send_response(call, m);
}

static void answer_services(const kd_rpc_reflection *r, kd_rpc_call *call,
                            Grpc__Reflection__V1__ServerReflectionResponse *m)
{
    Grpc__Reflection__V1__ListServiceResponse list =
        GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1__ServiceResponse items[32], *pointers[32];
    for (int i = 0; i < r->n_services; i++) {
        grpc__reflection__v1__service_response__init(&items[i]);
        items[i].name = (char *)r->services[i];
        pointers[i] = &items[i];
    }
    list.service = pointers;
    list.n_service = (size_t)r->n_services;
    m->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    m->list_services_response = &list;
    send_response(call, m);
}

static void answer_error(kd_rpc_call *call, int code, const char *text,
                         Grpc__Reflection__V1__ServerReflectionResponse *m)
{
    Grpc__Reflection__V1__ErrorResponse e = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    e.error_code = code;
    e.error_message = (char *)text;
    m->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    m->error_response = &e;
    send_response(call, m);
}

/* v1 and v1alpha have the same messages on the wire. */
static void on_request(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    const kd_rpc_reflection *r = arg;
    kd_diag diag = {0};
    ProtobufCMessage *raw = NULL;
    if (kd_wire_unpack(&grpc__reflection__v1__server_reflection_request__descriptor, bytes, len,
                       &raw, &diag) != 0) {
        kd_rpc_finish_diag(call, &diag);
        return;
    }
    Grpc__Reflection__V1__ServerReflectionRequest *q =
        (Grpc__Reflection__V1__ServerReflectionRequest *)raw;
    Grpc__Reflection__V1__ServerReflectionResponse m =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    m.valid_host = q->host;
    m.original_request = q;
    int file = -1;
    switch ((int)q->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        answer_services(r, call, &m);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        file = find_file(r, q->file_by_filename);
        if (file < 0)
            answer_error(call, 5, "no such file", &m);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        file = find_symbol(r, q->file_containing_symbol);
        if (file < 0)
            answer_error(call, 5, "no such symbol", &m);
        break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        answer_error(call, 5, "no message here has extensions", &m);
        break;
    default:
        answer_error(call, 3, "the request asks for nothing", &m);
        break;
    }
    if (file >= 0)
        answer_files(r, call, file, &m);
    kd_wire_free(raw);
}

static void on_half_close(kd_rpc_call *call, void *arg)
{
    (void)arg;
    kd_rpc_finish(call, 0, "");
}

void kd_rpc_reflection_methods(kd_rpc_reflection *r, kd_rpc_method rows[KD_REFLECTION_METHODS])
{
    static const char *const paths[] = {
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    };
    for (int i = 0; i < KD_REFLECTION_METHODS; i++)
        rows[i] = (kd_rpc_method){.path = paths[i],
                                  .kind = KD_RPC_BIDI,
                                  .max_request = 65536,
                                  .on_message = on_request,
                                  .on_half_close = on_half_close,
                                  .arg = r};
}
