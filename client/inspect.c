/* inspect: what is in a model's file. */
#include "args.h"
#include "format.h"
#include "json.h"
#include "output.h"
#include "predict_model.h"

#include "compress/prune.h"
#include "models/graph_json.h"
#include "models/int8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const kd_opt g_opts[] = {
    {"size", 0, "N", "pixels a side, where an ONNX model leaves it open"},
};

/* What one node, or the whole network, is made of. */
typedef struct figures {
    uint64_t parameters, trained, zeros, macs, eight, half; /* parameters held in 8 bits, in 16 */
} figures;

static void count_param(const kd_loaded *l, const enum kd_st_type *types, int at, figures *f)
{
    if (at < 0)
        return;
    const kd_param *p = &l->graph->params[at];
    f->parameters += p->count;
    f->trained += p->kind == KD_PARAM_TRAINED ? p->count : 0;
    f->eight += types[at] == KD_ST_I8 ? p->count : 0;
    f->half += types[at] == KD_ST_F16 || types[at] == KD_ST_BF16 ? p->count : 0;
    /* Pruning takes weights; biases and statistics are zero for other reasons. */
    for (size_t i = 0; i < p->count && p->ndim > 1; i++)
        f->zeros += l->vector[p->offset + i] == 0;
}

static figures count_node(const kd_loaded *l, const enum kd_st_type *types, const kd_node *n)
{
    figures f = {0};
    const int params[] = {n->weight, n->bias, n->mean, n->var};
    for (size_t i = 0; i < KD_COUNT(params); i++)
        count_param(l, types, params[i], &f);
    f.macs = kd_node_macs(l->graph, n);
    return f;
}

static void sum(figures *to, const figures *f)
{
    to->parameters += f->parameters;
    to->trained += f->trained;
    to->zeros += f->zeros;
    to->macs += f->macs;
    to->eight += f->eight;
    to->half += f->half;
}

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

/* How many bytes the parameters take in the file. */
static uint64_t bytes_of(const figures *f)
{
    return 4 * (f->parameters - f->eight - f->half) + f->eight + 2 * f->half;
}

/* ---- output */

static int bits_of(enum kd_st_type type)
{
    return type == KD_ST_I8 ? 8 : type == KD_ST_F32 ? 32 : 16;
}

static json_t *node_json(const kd_loaded *l, const enum kd_st_type *types, const kd_node *n)
{
    const figures f = count_node(l, types, n);
    json_t *o = json_pack("{s:o, s:s, s:[i, i, i], s:I, s:I, s:f}", "name", kd_json_text(n->name),
                          "op", kd_op_word(n->op), "output", n->h, n->w, n->c, "parameters",
                          (json_int_t)f.parameters, "macs", (json_int_t)f.macs, "zeros",
                          share(f.zeros, f.parameters));
    if (n->weight >= 0) {
        const kd_param *p = &l->graph->params[n->weight];
        json_t *shape = json_array();
        for (int i = 0; i < p->ndim; i++)
            (void)json_array_append_new(shape, json_integer(p->shape[i]));
        json_object_set_new(o, "weight", shape);
        json_object_set_new(o, "weight_bits", json_integer(bits_of(types[n->weight])));
    }
    if (n->range > 0)
        json_object_set_new(o, "range", json_real((double)n->range));
    return o;
}

static int print_json(kd_cli *cli, const kd_loaded *l, const char *path, uint64_t size,
                      const enum kd_st_type *types, const figures *all, const kd_loaded_meta *s)
{
    json_t *layers = json_array(), *meta = json_object();
    for (int i = 0; i < l->graph->n_nodes; i++)
        (void)json_array_append_new(layers, node_json(l, types, &l->graph->nodes[i]));
    for (size_t i = 0; i < s->n_pairs; i++)
        json_object_set_new(meta, s->pairs[i].key, kd_json_text(s->pairs[i].value));
    json_t *names = json_array();
    for (int i = 0; i < l->info.n_classes; i++)
        (void)json_array_append_new(names, kd_json_text(l->info.classes[i]));
    json_object_set_new(meta, "classes", l->info.classes ? names : json_null());
    if (!l->info.classes)
        json_decref(names);
    json_t *o = json_pack("{s:o, s:I, s:b, s:i, s:i, s:I, s:I, s:I, s:I, s:f, s:f, s:b, s:o, s:o}",
                          "file", kd_json_text(path), "bytes", (json_int_t)size, "distilld",
                          (int)l->ours, "size", l->size, "classes", l->n_classes, "parameters",
                          (json_int_t)all->parameters, "trained", (json_int_t)all->trained, "macs",
                          (json_int_t)all->macs, "parameter_bytes", (json_int_t)bytes_of(all),
                          "zeros", share(all->zeros, all->parameters), "pruned",
                          kd_prune_gone(l->graph, l->vector, NULL), "int8",
                          (int)kd_graph_is_int8(l->graph), "metadata", meta, "layers", layers);
    return kd_json_print(cli, o, false);
}

static void print_layers(kd_cli *cli, const kd_loaded *l, const enum kd_st_type *types)
{
    char a[KD_FMT], b[KD_FMT], c[KD_FMT];
    kd_table t;
    kd_table_init(
        &t, "LAYER|OPERATOR|OUTPUT>|PARAMETERS>|MULTIPLY-ADDS>|ZERO>|WEIGHT BITS>|8 BITS UP TO>");
    for (int i = 0; i < l->graph->n_nodes; i++) {
        const kd_node *n = &l->graph->nodes[i];
        const figures f = count_node(l, types, n);
        kd_table_add(&t, KD_PLAIN, "%s", n->name);
        kd_table_add(&t, KD_DIM, "%s", kd_op_word(n->op));
        kd_table_add(&t, KD_PLAIN, "%dx%dx%d", n->h, n->w, n->c);
        kd_table_add(&t, KD_PLAIN, "%s", f.parameters ? kd_fmt_count(f.parameters, a) : "");
        kd_table_add(&t, KD_PLAIN, "%s", f.macs ? kd_fmt_count(f.macs, b) : "");
        kd_table_add(&t, KD_PLAIN, "%s",
                     f.zeros ? kd_fmt_percent(share(f.zeros, f.parameters), c) : "");
        if (n->weight >= 0)
            kd_table_add(&t, KD_PLAIN, "%d", bits_of(types[n->weight]));
        else
            kd_table_add(&t, KD_PLAIN, "%s", "");
        if (n->range > 0)
            kd_table_add(&t, KD_PLAIN, "%.4g", (double)n->range);
        else
            kd_table_add(&t, KD_PLAIN, "%s", "");
    }
    kd_table_print(cli, &t, 0);
}

static void print_totals(kd_cli *cli, const kd_loaded *l, uint64_t size, const figures *all,
                         const kd_loaded_meta *s)
{
    char a[KD_FMT], b[KD_FMT], c[KD_FMT];
    kd_out(cli, "\n%s parameters (%s trained), %s multiply-adds a picture of %dx%d",
           kd_fmt_count(all->parameters, a), kd_fmt_count(all->trained, b),
           kd_fmt_count(all->macs, c), l->size, l->size);
    kd_out(cli, "%s of the weights that pruning may take are zero, %s of all parameters",
           kd_fmt_percent(kd_prune_gone(l->graph, l->vector, NULL), a),
           kd_fmt_percent(share(all->zeros, all->parameters), b));
    kd_out(cli, "the parameters take %s, the file %s", kd_fmt_bytes((double)bytes_of(all), a),
           kd_fmt_bytes((double)size, b));
    if (all->eight)
        kd_out(cli, "%s of them are held in 8 bits",
               kd_fmt_percent(share(all->eight, all->parameters), a));
    if (all->half)
        kd_out(cli, "%s of them are held in 16 bits",
               kd_fmt_percent(share(all->half, all->parameters), a));
    if (l->softmax)
        kd_out(cli, "a softmax at its end is left out: answers are logits");
    kd_out(cli, "\n%d classes%s", l->n_classes,
           l->info.classes ? "" : ", whose names the file does not say (--classes FILE)");
    if (!l->info.has_preprocess)
        kd_out(cli, "the file does not say how its pictures are prepared (--preprocess)");
    for (size_t i = 0; i < s->n_pairs; i++)
        kd_out_clean(cli, "  %-18s %s", s->pairs[i].key, s->pairs[i].value);
}

static int start(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    kd_loaded l;
    struct stat st = {0};
    const char *path = args->operands[0];
    int code = kd_model_start(cli, "inspect", args, &l);
    if (code != KD_EXIT_OK)
        return code;
    (void)stat(path, &st);
    figures all = {0};
    kd_loaded_meta s = {0};
    const enum kd_st_type *types = l.types;
    for (int i = 0; i < l.graph->n_nodes; i++) {
        const figures f = count_node(&l, types, &l.graph->nodes[i]);
        sum(&all, &f);
    }
    if (kd_loaded_describe(NULL, &l.info, &s, &diag) != 0) {
        kd_error(cli, "%s", diag.msg);
        code = KD_EXIT_FAILURE;
    } else if (cli->json) {
        code = print_json(cli, &l, path, (uint64_t)st.st_size, types, &all, &s);
    } else {
        print_layers(cli, &l, types);
        print_totals(cli, &l, (uint64_t)st.st_size, &all, &s);
    }
    kd_loaded_meta_clear(&s);
    kd_loaded_clear(&l);
    return code;
}

const kd_verb kd_verb_inspect = {
    .name = "inspect",
    .operands = "MODEL",
    .summary = "layers, shapes, costs and metadata of a model's file",
    .help = "MODEL is a .safetensors file of ours or an .onnx file. Multiply-adds are those of\n"
            "convolutions and dense layers for one picture. No coordinator is asked.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = start};
