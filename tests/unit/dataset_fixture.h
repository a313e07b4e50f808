/* What the tests of data sets share: a data root with a set of four pictures in two classes. */
#ifndef KD_DATASET_FIXTURE_H
#define KD_DATASET_FIXTURE_H

#include "data/data.h"
#include "kd/file.h"
#include "kd_test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct fixture {
    char *root;
    int fd;
    kd_data_config cfg;
} fixture;

static inline void put(const fixture *f, const char *name, const void *data, size_t len)
{
    char path[1024];
    kd_diag diag = {0};
    snprintf(path, sizeof path, "%s/%s", f->root, name);
    kd_assert_ok(kd_file_write(path, data, len, &diag), &diag);
}

static inline void put_text(const fixture *f, const char *name, const char *text)
{
    put(f, name, text, strlen(text));
}

static inline void put_picture(const fixture *f, const char *name, uint8_t grey)
{
    uint8_t rgb[6 * 4 * 3];
    char path[1024];
    kd_diag diag = {0};
    memset(rgb, grey, sizeof rgb);
    snprintf(path, sizeof path, "%s/%s", f->root, name);
    kd_assert_ok(kd_image_write_png(path, rgb, 6, 4, &diag), &diag);
}

static inline void make_dir(const fixture *f, const char *name)
{
    char path[1024];
    kd_diag diag = {0};
    snprintf(path, sizeof path, "%s/%s", f->root, name);
    kd_assert_ok(kd_file_mkdirs(path, &diag), &diag);
}

static inline int set_up(void **state)
{
    fixture *f = kd_xalloc(sizeof *f);
    f->root = kd_test_mkdir();
    f->fd = open(f->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(f->fd >= 0);
    make_dir(f, "set/pics/ant");
    make_dir(f, "set/pics/bee");
    put_picture(f, "set/pics/ant/0.png", 10);
    put_picture(f, "set/pics/ant/1.png", 20);
    put_picture(f, "set/pics/bee/0.png", 30);
    put_picture(f, "set/pics/bee/1.png", 40);
    put_text(f, "set/classes.txt", "ant\nbee\n");
    put_text(f, "set/train.txt", "pics/ant/0.png\t0\npics/bee/0.png\t1\npics/ant/1.png\t0\n");
    put_text(f, "set/val.txt", "pics/bee/1.png\t1\n");
    f->cfg = (kd_data_config){.kind = KD_DATA_IMAGE_FOLDER,
                              .path = "set",
                              .train = "train.txt",
                              .val = "val.txt",
                              .classes = "classes.txt",
                              .size = 5};
    *state = f;
    return 0;
}

static inline int tear_down(void **state)
{
    fixture *f = *state;
    close(f->fd);
    kd_test_rmdir(f->root);
    free(f);
    return 0;
}

static inline kd_data *open_good(const fixture *f)
{
    kd_data *d = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_data_open(&f->cfg, f->fd, NULL, NULL, &d, &diag), &diag);
    assert_non_null(d);
    assert_int_equal(diag.code, 0); /* nothing is said where nothing is wrong */
    return d;
}

static inline kd_digest digest_of(const fixture *f)
{
    kd_data *d = open_good(f);
    kd_digest digest = kd_data_digest(d);
    kd_data_free(d);
    return digest;
}

static inline void open_bad(const fixture *f, int code, const char *part)
{
    kd_data *d = NULL;
    kd_diag diag = {0};
    kd_assert_fails(kd_data_open(&f->cfg, f->fd, NULL, NULL, &d, &diag), code, &diag, part);
    assert_null(d);
}

#endif
