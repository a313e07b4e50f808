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
#define MAX_SYMBOLS 65536
#define MAX_SERVICES 32
#define MAX_NAME 256
#define MAX_DEPTH 16

struct file {
    const uint8_t *bytes; /* the FileDescriptorProto, inside the set */
    size_t len;
    char name[MAX_NAME];
    char deps[MAX_DEPS][MAX_NAME];
    int n_deps;
};

struct symbol {
    char name[MAX_NAME];
    int file;
};

struct kd_rpc_reflection {
    struct file files[MAX_FILES];
    int n_files;
    struct symbol *symbols; /* sorted by name once the set is read */
    size_t n_symbols, cap_symbols;
    char services[MAX_SERVICES][MAX_NAME];
    int n_services;
};

/* ---- reading the set */

struct field {
    uint64_t number;
    bool is_bytes; /* else a number, which nothing here needs */
    const uint8_t *bytes;
    size_t len;
};

static bool read_varint(const uint8_t **p, const uint8_t *end, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64 && *p < end; shift += 7) {
        uint8_t b = *(*p)++;
        *out |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return true;
    }
    return false;
}

/* Next field of a message; 1 = there is one, 0 = end, -1 = damaged. No message that is scanned here
 * has fields of fixed width. */
static int next_field(const uint8_t **p, const uint8_t *end, struct field *f)
{
    uint64_t tag, n;
    if (*p == end)
        return 0;
    if (!read_varint(p, end, &tag) || !read_varint(p, end, &n))
        return -1;
    *f = (struct field){.number = tag >> 3, .is_bytes = (tag & 7) == 2};
    if ((tag & 7) == 0)
        return 1;
    if (!f->is_bytes || n > (uint64_t)(end - *p))
        return -1;
    f->bytes = *p;
    f->len = (size_t)n;
    *p += n;
    return 1;
}

static int copy_text(char out[MAX_NAME], const struct field *f)
{
    if (f->len >= MAX_NAME)
        return -1;
    memcpy(out, f->bytes, f->len);
    out[f->len] = '\0';
    return 0;
}

static int add_symbol(kd_rpc_reflection *r, const char *name, int file)
{
    if (r->n_symbols == r->cap_symbols) {
        size_t cap = r->cap_symbols ? r->cap_symbols * 2 : 256;
        struct symbol *p = cap <= MAX_SYMBOLS ? realloc(r->symbols, cap * sizeof *p) : NULL;
        if (!p)
            return -1;
        r->symbols = p;
        r->cap_symbols = cap;
    }
    struct symbol *s = &r->symbols[r->n_symbols++];
    snprintf(s->name, sizeof s->name, "%s", name);
    s->file = file;
    return 0;
}

enum kind { FILE_, MESSAGE, ENUM, SERVICE, LEAF, NONE };

/* What a declaration of one kind contains, by field number of its descriptor. */
static enum kind kind_of(enum kind outer, uint64_t number)
{
    switch (outer) {
    case FILE_:
        return number == 4 ? MESSAGE : number == 5 ? ENUM : number == 6 ? SERVICE : NONE;
    case MESSAGE:
        return number == 3                  ? MESSAGE
               : number == 4                ? ENUM
               : number == 2 || number == 8 ? LEAF
                                            : NONE;
    case ENUM:
    case SERVICE:
        return number == 2 ? LEAF : NONE;
    case LEAF:
    case NONE:
        break;
    }
    return NONE;
}

/* Adds a declaration and all in it. Its name is field 1 in every kind of descriptor. */
static int scan(kd_rpc_reflection *r, const struct field *decl, enum kind kind, const char *scope,
                int file, int depth)
{
    const uint8_t *p = decl->bytes, *end = p + decl->len;
    struct field f;
    char name[MAX_NAME] = "", full[MAX_NAME];
    int rc;
    while ((rc = next_field(&p, end, &f)) == 1)
        if (f.number == 1 && f.is_bytes && copy_text(name, &f) != 0)
            return -1;
    if (rc < 0 || depth > MAX_DEPTH ||
        snprintf(full, sizeof full, "%s%s%s", scope, scope[0] ? "." : "", name) >= MAX_NAME ||
        add_symbol(r, full, file) != 0)
        return -1;
    /* Values of an enum are named in the scope around it. */
    const char *inner = kind == ENUM ? scope : full;
    for (p = decl->bytes; next_field(&p, end, &f) == 1;) {
        enum kind k = f.is_bytes ? kind_of(kind, f.number) : NONE;
        if (k != NONE && scan(r, &f, k, inner, file, depth + 1) != 0)
            return -1;
    }
    return 0;
}

static int scan_file(kd_rpc_reflection *r, const struct field *file)
{
    if (r->n_files == MAX_FILES)
        return -1;
    int index = r->n_files++, rc;
    struct file *f = &r->files[index];
    f->bytes = file->bytes;
    f->len = file->len;
    const uint8_t *p = file->bytes, *end = p + file->len;
    struct field x;
    char package[MAX_NAME] = "";
    while ((rc = next_field(&p, end, &x)) == 1) {
        if (!x.is_bytes)
            continue;
        if (x.number == 1)
            rc = copy_text(f->name, &x);
        else if (x.number == 2)
            rc = copy_text(package, &x);
        else if (x.number == 3)
            rc = f->n_deps < MAX_DEPS ? copy_text(f->deps[f->n_deps++], &x) : -1;
        if (rc < 0)
            return -1;
    }
    for (p = file->bytes; rc == 0 && next_field(&p, end, &x) == 1;) {
        enum kind k = x.is_bytes ? kind_of(FILE_, x.number) : NONE;
        if (k != NONE)
            rc = scan(r, &x, k, package, index, 0);
    }
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct symbol *)a)->name, ((const struct symbol *)b)->name);
}

static void add_service(kd_rpc_reflection *r, const char *name)
{
    for (int i = 0; i < r->n_services; i++)
        if (strcmp(r->services[i], name) == 0)
            return;
    KD_BUG_ON(r->n_services == MAX_SERVICES); /* our own method table */
    snprintf(r->services[r->n_services++], MAX_NAME, "%s", name);
}

int kd_rpc_reflection_new(const void *set, size_t len, const kd_rpc_method *methods, size_t n,
                          kd_rpc_reflection **out, kd_diag *diag)
{
    kd_rpc_reflection *r = kd_xalloc(sizeof *r);
    const uint8_t *p = set, *end = p + len;
    struct field f;
    int rc;
    while ((rc = next_field(&p, end, &f)) == 1)
        if (f.number == 1 && f.is_bytes && (rc = scan_file(r, &f)) != 0)
            break;
    if (rc != 0) {
        kd_rpc_reflection_free(r);
        return kd_fail(diag, -KD_EDATA, "the descriptor set is damaged or too large");
    }
    if (r->n_symbols)
        qsort(r->symbols, r->n_symbols, sizeof *r->symbols, by_name);
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

/* ---- answering */

static int find_file(const kd_rpc_reflection *r, const char *name)
{
    for (int i = 0; i < r->n_files; i++)
        if (strcmp(r->files[i].name, name) == 0)
            return i;
    return -1;
}

static int find_symbol(const kd_rpc_reflection *r, const char *name)
{
    struct symbol key;
    if (strlen(name) >= sizeof key.name || r->n_symbols == 0)
        return -1;
    strcpy(key.name, name);
    const struct symbol *s = bsearch(&key, r->symbols, r->n_symbols, sizeof key, by_name);
    return s ? s->file : -1;
}

static void collect(const kd_rpc_reflection *r, int file, bool wanted[MAX_FILES])
{
    if (file < 0 || wanted[file])
        return;
    wanted[file] = true;
    for (int i = 0; i < r->files[file].n_deps; i++)
        collect(r, find_file(r, r->files[file].deps[i]), wanted);
}

static void send_response(kd_rpc_call *call,
                          const Grpc__Reflection__V1__ServerReflectionResponse *m)
{
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    int rc = kd_wire_pack(m, &buf);
    if (rc == 0)
        rc = kd_rpc_send(call, &(struct iovec){buf.data, buf.len}, 1);
    if (rc != 0) /* no effect on a call that is over */
        kd_rpc_finish(call, rc, "the client asks faster than it takes the answers");
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
    Grpc__Reflection__V1__ServiceResponse items[MAX_SERVICES], *pointers[MAX_SERVICES];
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
