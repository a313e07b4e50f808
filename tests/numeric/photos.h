/* Real photographs and MobileNetV2 with its ImageNet weights, from $DISTILL_DATA. Include after
 * kd_test.h.
 */
#ifndef KD_TESTS_PHOTOS_H
#define KD_TESTS_PHOTOS_H

#include "data/data.h"
#include "kd/file.h"
#include "models/models.h"

#include <stdio.h>
#include <string.h>

enum { PHOTO_SIDE = 224, PHOTO_FLOATS = PHOTO_SIDE * PHOTO_SIDE * 3, PHOTO_CLASSES = 1000 };

typedef struct {
    kd_graph *g;
    float *vector;
    char *list, *rest; /* lines of val.txt, and those not seen yet */
    const char *data;
} photos;

/* False if there are none. */
static inline bool photos_open(photos *out)
{
    kd_diag diag = {0};
    char path[1024], *bytes;
    size_t len;
    bool new_head;
    const kd_model_config cfg = {.model = "mobilenet_v2",
                                 .width = 1,
                                 .pad_tf = true,
                                 .size = PHOTO_SIDE,
                                 .channels = 3,
                                 .classes = PHOTO_CLASSES};
    *out = (photos){.data = kd_test_data()};
    if (!out->data) {
        print_message("DISTILL_DATA is not set\n");
        return false;
    }
    kd_assert_ok(kd_model_build(&cfg, &out->g, &diag), &diag);
    out->vector = kd_xalloc(out->g->vector_len * sizeof *out->vector);
    snprintf(path, sizeof path, "%s/weights/mobilenet_v2.safetensors", out->data);
    kd_assert_ok(kd_file_read(path, (size_t)1 << 26, &bytes, &len, &diag), &diag);
    kd_assert_ok(kd_model_load(out->g, bytes, len, path, out->vector, &new_head, &diag), &diag);
    assert_false(new_head);
    free(bytes);
    snprintf(path, sizeof path, "%s/flowers/val.txt", out->data);
    kd_assert_ok(kd_file_read(path, (size_t)1 << 20, &out->list, &len, &diag), &diag);
    out->rest = out->list;
    return true;
}

/* Decodes the next one of a folder ("" = of any) as the network wants it, [224,224,3] in [-1, 1].
 * False after the last. */
static inline bool photos_next(photos *p, const char *folder, float *out)
{
    kd_diag diag = {0};
    char path[1024], *bytes, *line;
    size_t len;
    kd_image image;
    do
        line = strtok_r(p->rest, "\n", &p->rest);
    while (line && strncmp(line, folder, strlen(folder)) != 0);
    if (!line)
        return false;
    line[strcspn(line, "\t")] = '\0';
    snprintf(path, sizeof path, "%s/flowers/%s", p->data, line);
    uint8_t *rgb = kd_xalloc(PHOTO_FLOATS);
    kd_assert_ok(kd_file_read(path, KD_IMAGE_MAX_FILE, &bytes, &len, &diag), &diag);
    kd_assert_ok(kd_image_decode((const uint8_t *)bytes, len, &image, &diag), &diag);
    kd_assert_ok(kd_image_resize(&image, PHOTO_SIDE, PHOTO_SIDE, rgb, &diag), &diag);
    kd_view_to_float(1, rgb, (size_t)PHOTO_SIDE * PHOTO_SIDE, out);
    kd_image_free(&image);
    free(bytes);
    free(rgb);
    return true;
}

static inline void photos_close(photos *p)
{
    kd_graph_free(p->g);
    free(p->vector);
    free(p->list);
}

#endif
