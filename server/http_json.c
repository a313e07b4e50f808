/* Messages as JSON. The loop only packs them: making thousands of objects would hold it for
 * milliseconds, so that is another thread's. */
#include "http_internal.h"

#include "json/json.h"

#include <stdlib.h>

static json_t *list_json(const void *message)
{
    const Distill__V1__ListReply *m = message;
    json_t *list = json_array();
    for (size_t i = 0; i < m->n_jobs; i++)
        (void)json_array_append_new(list, kd_json_summary(m->jobs[i]));
    return json_pack("{s:o}", "jobs", list);
}

static json_t *workers_json(const void *message)
{
    const Distill__V1__WorkersReply *m = message;
    json_t *list = json_array();
    for (size_t i = 0; i < m->n_workers; i++)
        (void)json_array_append_new(list, kd_json_worker(m->workers[i]));
    return json_pack("{s:o}", "workers", list);
}

static json_t *detail_json(const void *message)
{
    return kd_json_detail(message);
}

static json_t *info_json(const void *message)
{
    return kd_json_info(message);
}

const kd_http_form kd_http_list = {&distill__v1__list_reply__descriptor, list_json};
const kd_http_form kd_http_workers = {&distill__v1__workers_reply__descriptor, workers_json};
const kd_http_form kd_http_detail = {&distill__v1__job_detail__descriptor, detail_json};
const kd_http_form kd_http_info = {&distill__v1__info_reply__descriptor, info_json};

char *kd_http_text(json_t *json)
{
    char *text = kd_json_dump(json, JSON_COMPACT);
    json_decref(json);
    return text;
}

char *kd_http_json(const kd_http_form *form, const kd_buf *packed, kd_diag *diag)
{
    ProtobufCMessage *m = NULL;
    if (kd_wire_unpack_large(form->message, packed->data, packed->len, KD_HTTP_BODY, &m, diag) != 0)
        return NULL;
    char *text = kd_http_text(form->json(m));
    kd_wire_free(m);
    if (!text)
        (void)kd_fail(diag, -KD_ENOMEM, "no memory for the answer");
    return text;
}
