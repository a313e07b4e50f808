#include "outside.h"

#include <string.h>
#include <strings.h>

static bool is_permitted(const char *list, const char *address)
{
    const size_t n = strlen(address);
    for (const char *at = list ? list : ""; *at; at += strcspn(at, ",")) {
        at += strspn(at, ", ");
        if (strncasecmp(at, address, n) == 0 && strcspn(at, ", ") == n)
            return true;
    }
    return false;
}

const char *kd_outside_forbidden(const char *list, const kd_job *job)
{
    for (int i = 0; i < job->n_teachers; i++)
        if (kd_teacher_is_outside(&job->teachers[i]) &&
            !is_permitted(list, job->teachers[i].kserve))
            return job->teachers[i].kserve;
    return NULL;
}
