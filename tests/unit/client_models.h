/* A small network in three files, pictures of its classes, and the command run on them: what tests
 * of verbs that make or read models' files begin with. Include once. */
#ifndef KD_CLIENT_MODELS_H
#define KD_CLIENT_MODELS_H

#include "client_nets.h"
#include "client_run.h"

#include <stdio.h>
#include <string.h>

#define SIZE 24
#define CLASSES 3
#define EACH 14 /* pictures of a class */

static char *g_out, *g_err;
static char g_data[300];
static struct kd_client_nets g_nets;
/* Not in the order of the folders' names. */
static const char *const g_classes[CLASSES] = {"tulips", "daisy", "roses"};

static int set_up(void **state)
{
    (void)state;
    kd_model_file_info info = kd_client_nets_info(SIZE, g_classes, CLASSES);
    strcpy(info.job, "0123456789ab");
    strcpy(info.data, "00112233445566778899aabbccddeeff");
    strcpy(info.teacher, "mobilenet_v2 0011223344556677");
    kd_client_nets_make(&g_nets, SIZE, &info);
    snprintf(g_data, sizeof g_data, "%s/data", g_nets.dir);
    kd_client_draw_classes(g_data, SIZE, g_classes, CLASSES, EACH);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kd_client_nets_free(&g_nets);
    return 0;
}

/* Runs the command, which must end with that exit code. */
#define EXPECT(code, ...)                                                                          \
    kd_run_expect(g_nets.dir, &g_out, &g_err, code, (const char *[]){__VA_ARGS__, NULL})

#endif
