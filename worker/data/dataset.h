/* Data sets: picture files, or files of many pictures.
 *
 * A sample is known by its number. Numbers go by split: training samples from 0 on, then
 * validation, test and unlabelled ones, each in the order of its list. Everything random about a
 * sample is a function of (seed, sample, view), never of batch or worker. All pictures come out as
 * RGB, uint8, [size,size,3]; grey sets too.
 *
 * Formats. All names are paths beneath the data set's folder `path`, without "..", control
 * characters or a leading "/".
 *   image-folder  train, val and test are each a list file, or a folder of class folders in which
 *                 every .jpg, .jpeg and .png at any depth is a sample of the class (torchvision's
 *                 ImageFolder); hidden names are passed over, names are sorted by their bytes.
 * train
 *                 "": `path` itself is a folder of class folders (those named val, test or
 *                 unlabelled_path left out).
 *   idx           http://yann.lecun.com/exdb/mnist/: images uint8 [n,h,w], labels uint8 [n].
 *   cifar         https://www.cs.toronto.edu/~kriz/cifar.html, binary version, CIFAR-10 or
 *                 CIFAR-100 (fine labels). train "": data_batch_*.bin, or train.bin. val "":
 *                 test_batch.bin or test.bin; with a val or a val_share that file is the test
 * split, if it is there and no other is asked for. With one_split train "" is that file, if it is
 *                 there.
 *   npy           NumPy: images uint8 [n,h,w],
 * [n,h,w,1] or [n,h,w,3], labels of any integer type [n]; C order, little endian. Files of the last
 * three may be packed with gzip.
 *
 * Shares: val_share and test_share of the training samples, class by class; each class gives its
 * share rounded up or down such that the sum is right, and always keeps one sample. Drawn by seed
 * from the samples in their order. max_train chooses among what is left.
 *
 * Unlabelled samples are picture files whatever the format: every picture below unlabelled_path, or
 * those of a list in it (a class behind a tab is passed over).
 *
 * Leakage: the same picture (bytes of the file; pixels in the formats that hold many) in two splits
 * of which at least one is measured on (val, test).
 *   refuse  opening fails, naming the first two and how many pairs there are
 *   move    the test split keeps its pictures, else validation does; the others lose them
 *   allow   nothing is done
 * The same picture twice in one split is no leakage. -KD_EEXIST when it is refused.
 *
 * The data digest covers class names, names and labels in their order, and the bytes of every
 * file, so that two workers with the same digest hold the same data under the same numbers.
 *
 * List file: text, one picture a line, LF or CRLF, at most KD_DATA_MAX_LINE bytes a line:
 *   PATH<TAB>CLASS   CLASS is the number of a line of the file of class names, from 0
 *   PATH             the class is the name of the folder that the file stands in
 * Empty lines are passed over; the same path may stand there twice. A file that is named but
 * missing is no error at opening (the digest then differs from that of a worker which has it):
 * loading it fails.
 *
 * File of class names: one a line, unique, at least one. Without `classes`, an image folder takes
 * classes.txt, CIFAR batches.meta.txt or fine_label_names.txt, if it is there. Without one the
 * classes are the class folders, or the folders named in the training list, sorted by their bytes;
 * else the numbers from 0 on.
 *
 * Threads: after open, everything but free is reentrant. */
#ifndef KD_DATASET_H
#define KD_DATASET_H

#include "kd/err.h"
#include "kd/hash.h"

#define KD_DATA_MAX_SAMPLES (10u << 20) /* of all splits together */
#define KD_DATA_MAX_LIST (1u << 30)     /* bytes of a list */
#define KD_DATA_MAX_LINE 4096
#define KD_DATA_MAX_CLASSES 65536
#define KD_DATA_MAX_CLASS_NAME 255
#define KD_DATA_MAX_ARRAY (1u << 30) /* bytes of a file of pictures, unpacked */
#define KD_DATA_MAX_SIZE 4096        /* pixels of a side of the samples given out */

/* Order of enum kd_data_format in job.h. */
enum kd_data_kind { KD_DATA_IMAGE_FOLDER, KD_DATA_IDX, KD_DATA_CIFAR, KD_DATA_NPY };
/* The same picture in two splits; order of enum kd_leakage in job.h. */
enum kd_data_leakage { KD_DATA_REFUSE, KD_DATA_MOVE, KD_DATA_ALLOW };
enum kd_split { KD_SPLIT_TRAIN, KD_SPLIT_VAL, KD_SPLIT_TEST, KD_SPLIT_UNLABELLED, KD_SPLITS };
const char *kd_split_name(enum kd_split split); /* "train", "val", "test", "unlabelled" */

/* Strings may be NULL, which is as good as "". */
typedef struct kd_data_config {
    enum kd_data_kind kind;
    const char *path; /* folder beneath root; "" or "." = the root itself */
    const char *train, *val, *test;
    const char *train_labels, *val_labels, *test_labels; /* IDX and npy */
    double val_share, test_share; /* of the training samples, where no val or test is named */
    bool one_split;               /* `train` is all there is: samples to measure a network on */
    bool links; /* may lead out of root, for who reads data of his own; names never may */
    enum kd_data_leakage leakage;
    const char *classes;         /* file of names, or "" */
    const char *unlabelled_path; /* folder beneath root; "" = none */
    const char *unlabelled_list; /* list file in it; "" = every picture below it */
    int size;                    /* pixels of a side, 1..KD_DATA_MAX_SIZE */
    int max_train; /* at most so many training samples, drawn without order by seed and kept in
                      list order; 0 = all */
    uint64_t seed; /* of the shares and of max_train's choice */
} kd_data_config;

typedef struct kd_data kd_data;
/* How far the digest is, at most every 200 ms. False: the data set is wanted no more. */
typedef bool (*kd_data_progress)(size_t done, size_t all, void *arg);
/* root_fd: the worker's data root, borrowed until free. progress may be NULL. Errors name the file
 * and line; -KD_ECANCELED when progress wanted it. All strings of cfg are borrowed during the call.
 */
int kd_data_open(const kd_data_config *cfg, int root_fd, kd_data_progress progress, void *arg,
                 kd_data **out, kd_diag *diag) KD_MUST_CHECK;
void kd_data_free(kd_data *d); /* NULL allowed */
/* Number of a split's first sample, and how many it has. */
size_t kd_data_first(const kd_data *d, enum kd_split split);
size_t kd_data_count(const kd_data *d, enum kd_split split);
size_t kd_data_samples(const kd_data *d); /* of all splits */
enum kd_split kd_data_split(const kd_data *d, size_t sample);
int kd_data_classes(const kd_data *d);
const char *kd_data_class_name(const kd_data *d, int c);   /* NULL out of range */
int kd_data_label(const kd_data *d, size_t sample);        /* -1 = unlabelled */
const char *kd_data_name(const kd_data *d, size_t sample); /* for messages; the path in the list */
kd_digest kd_data_digest(const kd_data *d);
kd_digest kd_data_classes_digest(const kd_data *d);
/* Files that were named in the lists and not found when the set was opened. */
size_t kd_data_missing(const kd_data *d);
/* Samples that KD_DATA_MOVE took out. */
size_t kd_data_moved(const kd_data *d);
/* Decodes and resizes (antialiased) one sample into rgb [size,size,3]; the whole picture is
 * squeezed into the square. -KD_EDATA: not decodable; -KD_ENOENT: no such file. */
int kd_data_load(const kd_data *d, size_t sample, uint8_t *rgb, kd_diag *diag) KD_MUST_CHECK;

#endif
